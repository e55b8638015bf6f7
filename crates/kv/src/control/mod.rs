//! The control socket: what is said on it, and the thread that listens.

pub mod wire;

mod connection;
mod run_dir;
mod server;

pub(crate) use run_dir::RunDir;
pub(crate) use server::{Command, ControlThread, Options};
