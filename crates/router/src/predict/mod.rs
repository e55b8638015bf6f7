//! What is predicted of engines and requests, from costs and demand. Nothing here decides.
//!
//! - `times`: how long an engine takes to do what it has, and what is sent to it now.
//! - `decodes`: how long decodes last, and how many of them will still run later.
//! - `request`: the TTFT and the ITL of a request that starts now.

mod decodes;
mod request;
mod times;

pub(crate) use decodes::Decodes;
pub(crate) use request::{Outlook, outlook};
