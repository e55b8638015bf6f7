//! The router against scripted engines, on a clock that the test moves.
#![allow(unreachable_pub, reason = "nothing reaches into a test from outside")]

mod admission;
mod caches;
mod forecasts;
mod life;
mod links;
mod mix;
mod moving;
mod placing;
mod rearrange;
mod sampling;
mod script;
mod storm;
mod watching;
