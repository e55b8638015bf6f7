//! The router against scripted engines, on a clock that the test moves.

mod devices;
mod life;
mod links;
mod moving;
mod placing;
mod sampling;
mod script;
mod storm;
