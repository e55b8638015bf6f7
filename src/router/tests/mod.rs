//! The router against scripted engines, on a clock that the test moves.

mod devices;
mod life;
mod links;
mod placing;
mod rearrange;
mod script;
mod storm;
