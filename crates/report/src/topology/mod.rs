//! `topology.json` as the matrix of `nvidia-smi topo -m` and as a drawing, from the document alone.

mod drawing;
mod load;
mod matrix;

pub use drawing::svg;
pub use load::{FILE, TopologyLoadError, load_topology};
pub use matrix::{summary, text};
