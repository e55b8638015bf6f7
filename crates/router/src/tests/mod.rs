//! Decisions alone, on fleets that are made up. What happens to requests is tested with a host around the router, in the host's tests.

mod deciding;
mod devices;
mod made_up;
mod scores;
