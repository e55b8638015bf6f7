//! A host owns a router and is the one that tells it what happens. It streams what the router is told, what the router asks for, and what
//! is seen besides to folds, and has a backend carry the actions out: real engines, engines in virtual time, or a test's script. The host
//! stores nothing itself, does no I/O and is told the time; whatever is kept of a run is what a fold makes of its journal.

mod host;
mod journal;
mod recording;
mod requests;
mod run;
mod samples;

pub use host::{Backend, Host};
pub use journal::{Copied, Entry, Facts, Fold};
pub use recording::{Recorder, Recording};
pub use requests::Requests;
pub use run::Run;
pub use samples::Samples;
