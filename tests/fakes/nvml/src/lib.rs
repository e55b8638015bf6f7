//! A stand-in for NVIDIA's management library: 1 to 16 GPUs that answer as a script says. The real `nvml-wrapper` loads it as it would
//! load `libnvidia-ml.so.1`.
//!
//! The script is JSON (`script.rs` has the keys): `FAKE_NVML` holds it or names its file; without that, `nvml.json` in the folder of the
//! loaded library counts, so that tests of one process can each load a copy of their own; without that, there are two idle GPUs.
//! A bad script makes `nvmlInit` fail and says why on standard error.
//!
//! Time is counted in rounds: reading a GPU's memory begins its next round, so a script does the same on a slow machine as on a fast one.

mod device;
mod events;
mod fields;
mod gpm;
mod links;
mod machine;
mod out;
mod script;
mod system;
