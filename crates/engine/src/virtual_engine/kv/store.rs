//! The memory itself: filled with contents, and compared with them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use dualpool_cuda::GpuUuid;
use dualpool_kv::wire::MemoryKind;
use dualpool_types::{BlockId, Program};

use super::process::KvProcess;
use super::shape::{LAYERS, Shape};

/// Where a virtual engine's KV memory lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvPlace {
    Shm,
    /// On this GPU, held by a process of this program.
    Gpu {
        uuid: GpuUuid,
        program: Program,
    },
}

/// A block and what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub block: BlockId,
    pub seed: u64,
}

pub enum Store {
    Shm { file: File, shape: Shape },
    Gpu(KvProcess),
}

impl Store {
    pub fn open(place: &KvPlace, shape: Shape) -> anyhow::Result<Store> {
        match place {
            KvPlace::Shm => {
                let fd = memfd_create("dualpool-virtual-kv", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
                let file = File::from(fd);
                file.set_len(shape.bytes()).with_context(|| format!("no room for {} bytes of KV memory", shape.bytes()))?;
                fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
                Ok(Store::Shm { file, shape })
            }
            KvPlace::Gpu { uuid, program } => Ok(Store::Gpu(KvProcess::start(program, *uuid, shape)?)),
        }
    }

    pub fn kind(&self) -> MemoryKind {
        match self {
            Store::Shm { shape, .. } => MemoryKind::Shm { bytes: shape.bytes() },
            Store::Gpu(process) => process.memory().clone(),
        }
    }

    /// What goes along with the message that registers it.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Store::Shm { file, .. } => Some(file.as_fd()),
            Store::Gpu(_) => None,
        }
    }

    pub fn fill(&mut self, contents: &[Content]) -> anyhow::Result<()> {
        match self {
            Store::Shm { file, shape } => {
                for (at, layer, content) in places(*shape, contents) {
                    file.write_all_at(&shape.content(content.seed, layer), at)?;
                }
                Ok(())
            }
            Store::Gpu(process) => process.fill(contents),
        }
    }

    /// The first block that holds something else.
    pub fn wrong(&mut self, contents: &[Content]) -> anyhow::Result<Option<BlockId>> {
        match self {
            Store::Shm { file, shape } => {
                let mut found = vec![0; shape.block_bytes() as usize];
                for (at, layer, content) in places(*shape, contents) {
                    file.read_exact_at(&mut found, at)?;
                    if found != shape.content(content.seed, layer) {
                        return Ok(Some(content.block));
                    }
                }
                Ok(None)
            }
            Store::Gpu(process) => process.wrong(contents),
        }
    }
}

/// Where each layer of each block lies in the whole memory.
fn places(shape: Shape, contents: &[Content]) -> impl Iterator<Item = (u64, u32, Content)> {
    let place = move |content: Content, layer: u32| {
        (u64::from(layer) * shape.layer_bytes() + shape.within_layer(content.block).start, layer, content)
    };
    contents.iter().copied().flat_map(move |content| (0..LAYERS).map(move |layer| place(content, layer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_found_and_anything_else_is_named() {
        let shape = Shape { block_size: 16, blocks: 4 };
        let mut store = Store::open(&KvPlace::Shm, shape).unwrap();
        let content = |block, seed| Content { block: BlockId(block), seed };
        store.fill(&[content(0, 7), content(3, 8)]).unwrap();
        assert_eq!(store.wrong(&[content(3, 8), content(0, 7)]).unwrap(), None);
        assert_eq!(store.wrong(&[content(0, 7), content(3, 7)]).unwrap(), Some(BlockId(3)));
        let Store::Shm { file, .. } = &store else { panic!("not a memfd") };
        file.write_all_at(&[0], shape.bytes() - 1).unwrap();
        assert_eq!(store.wrong(&[content(3, 8)]).unwrap(), Some(BlockId(3)), "one byte of the last layer is lost");
    }
}
