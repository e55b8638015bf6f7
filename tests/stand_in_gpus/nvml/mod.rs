//! The GPU sampler and what it feeds, through the real `nvml-wrapper`, on GPUs that do what a script says.

mod run;
mod sampler;
mod stand_in;
mod terminal;
mod top;
