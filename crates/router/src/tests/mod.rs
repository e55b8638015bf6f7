//! The router against scripted engines, on a clock that the test moves; and decisions alone, on fleets that are made up.

mod admission;
mod caches;
mod deciding;
mod devices;
mod forecasts;
mod life;
mod links;
mod made_up;
mod mix;
mod moving;
mod placing;
mod rearrange;
mod sampling;
mod scores;
mod script;
mod storm;
mod watching;
