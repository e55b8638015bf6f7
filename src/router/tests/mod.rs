//! The router against scripted engines, on a clock that the test moves.

mod admission;
mod devices;
mod life;
mod links;
mod placing;
mod script;
mod storm;
