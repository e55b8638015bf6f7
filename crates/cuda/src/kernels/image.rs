//! Where the kernels' machine code comes from: built with the program where the build found nvcc, else compiled at start.

use std::fmt;
use std::path::PathBuf;

use super::super::{Context, CudaError, Module};
use super::nvrtc::Nvrtc;
use super::{KernelError, SOURCE};

/// What `build.rs` made: a fatbin for several chips with PTX for later ones, or nothing.
const BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv_copy.fatbin"));

/// Which of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    /// By this NVRTC, at start.
    Compiled(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => write!(f, "built in"),
            Origin::Compiled(compiler) => write!(f, "compiled by {compiler}"),
        }
    }
}

/// Whether the program was built with the kernels in it.
pub fn built_in() -> bool {
    !BUILT_IN.is_empty()
}

pub(super) fn load(context: &Context, nvrtc_folders: &[PathBuf]) -> Result<(Module, Origin), KernelError> {
    // A driver older than the nvcc of the build refuses the fatbin; NVRTC may be one that suits it.
    let not_built_in = match built_in().then(|| Module::load(context, BUILT_IN)) {
        Some(Ok(module)) => return Ok((module, Origin::BuiltIn)),
        Some(Err(error @ CudaError::Module { .. })) => error.to_string(),
        Some(Err(error)) => return Err(error.into()),
        None => "this program was built without nvcc".into(),
    };
    let target = context.device().compute_capability;
    let compiled = Nvrtc::find(nvrtc_folders, target).and_then(|compiler| {
        let cubin = compiler.compile("kv_copy.cu", SOURCE, target, &[])?;
        Ok((cubin.image, Origin::Compiled(compiler.name().to_string())))
    });
    match compiled {
        Ok((image, origin)) => Ok((Module::load(context, &image)?, origin)),
        Err(not_compiled) => {
            Err(KernelError::Unavailable { gpu: context.device().to_string(), not_built_in, not_compiled: Box::new(not_compiled) })
        }
    }
}
