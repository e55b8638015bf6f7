//! The router against scripted engines, on a clock that the test moves.

mod caches;
mod devices;
mod life;
mod links;
mod placing;
mod script;
mod storm;
