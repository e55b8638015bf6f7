//! The whole of dualpool over pairs of engines: hand-off token for token, faults, disconnects, clean ends.

mod command_line;
mod deaths;
mod disconnects;
mod exact;
mod moving;
mod pair;
