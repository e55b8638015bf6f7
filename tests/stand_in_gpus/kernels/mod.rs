//! The CUDA kernels, with no GPU: what they copy, and what they compile to.

mod compiled;
mod emulator;
