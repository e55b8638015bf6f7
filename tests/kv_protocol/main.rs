//! The KV protocol from both ends: engines made up of sockets and a memfd against the real KV server (`socket`), real vLLM engines
//! against the real KV server (`handoff`), and a real engine against a broker that misbehaves (`hostile`).

mod engine;
mod fake;
#[path = "../support/faults.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod faults;
mod handoff;
mod hostile;
mod python;
mod socket;
#[path = "../support/program.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;
mod watch;
