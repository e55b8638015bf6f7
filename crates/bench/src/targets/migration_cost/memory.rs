//! Memory of our own where an engine on a device would have its KV, so that copies can be measured without engines.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use dualpool_cuda::GpuUuid;
use dualpool_engine::Spot;
use dualpool_engine::virtual_engine::kv::{KvPlace, Shape, Store};
use dualpool_kv::Memory;
use dualpool_kv::wire::MemoryKind;
use dualpool_machine::CoreSet;
use dualpool_types::{Bytes, Program};

/// Memory as an engine would register it, and its keeper: the memory is gone when the keeper is.
pub(super) struct Lent {
    pub memory: Memory,
    /// A process for GPU memory, because CUDA lets no process import its own. A memfd needs none: it lives as long as it is open or mapped.
    pub keeper: Option<Store>,
}

/// `program` is started for the process that holds GPU memory.
pub(super) fn lend(spot: &Spot, bytes: Bytes, program: &Program) -> anyhow::Result<Lent> {
    match spot {
        Spot::Cores(set) => {
            let fd = touched(set, bytes).with_context(|| format!("cannot get {bytes} of memory on {set}"))?;
            Ok(Lent { memory: Memory::Shm { fd, bytes: bytes.0 }, keeper: None })
        }
        Spot::Gpu(uuid) => on_gpu(*uuid, bytes, program).with_context(|| format!("cannot get {bytes} of memory on {uuid}")),
    }
}

/// Tokens in a block of GPU memory; its size is all that matters here.
const BLOCK_SIZE: u32 = 16;

fn on_gpu(uuid: GpuUuid, bytes: Bytes, program: &Program) -> anyhow::Result<Lent> {
    let one = Shape { block_size: BLOCK_SIZE, blocks: 1 };
    let shape = Shape { blocks: u32::try_from(bytes.0 / one.bytes())?, ..one };
    let store = Store::open(&KvPlace::Gpu { uuid, program: program.clone() }, shape)?;
    let MemoryKind::Cuda { uuid, segments } = store.kind() else { bail!("the process that holds GPU memory gave another kind") };
    let segments = segments.iter().map(|segment| segment.ipc(uuid)).collect::<Result<Vec<_>, _>>()?;
    Ok(Lent { memory: Memory::Cuda { segments }, keeper: Some(store) })
}

/// How much is written at a time while memory is touched.
const PIECE: usize = 4 << 20;

/// A memfd whose pages are all there, and lie where an engine on these cores would have put them: on the node of the thread that writes
/// first.
fn touched(set: &CoreSet, bytes: Bytes) -> std::io::Result<OwnedFd> {
    let file = File::from(memfd_create("dualpool-calibrate", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(bytes.0)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
    let touch = || {
        let mut cores = CpuSet::new();
        for &thread in &set.threads {
            cores.set(thread as usize)?;
        }
        // This thread alone, which ends with the writing.
        sched_setaffinity(Pid::from_raw(0), &cores)?;
        let piece = vec![0x5a; PIECE.min(bytes.0 as usize)];
        for offset in (0..bytes.0).step_by(PIECE) {
            file.write_all_at(&piece[..piece.len().min((bytes.0 - offset) as usize)], offset)?;
        }
        Ok(())
    };
    let touched: std::io::Result<()> =
        std::thread::scope(|scope| scope.spawn(touch).join()).unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")));
    touched.map(|()| OwnedFd::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_engine::VirtualEngineSettings;
    use dualpool_kv::{ShmTransport, Stop, Transport};
    use dualpool_machine::{Device, machine_core_sets};
    use dualpool_types::EngineId;

    #[test]
    fn memory_of_a_core_set_is_whole_and_can_be_mapped() {
        let spot = Spot::Cores(machine_core_sets(1).unwrap().remove(0));
        let lent = lend(&spot, Bytes((9 << 20) + 4096), &Program::default()).unwrap();
        let mut transport = ShmTransport::new();
        transport.map(EngineId(0), lent.memory).unwrap();
        let mut sum = |offset| transport.checksum(EngineId(0), &mut [(offset, 4096)].into_iter(), &Stop::default()).unwrap();
        assert_eq!(sum(0), sum(9 << 20), "every page was written");
    }

    #[test]
    fn engines_without_memory_are_named() {
        let said = Spot::of(&Device::Virtual(3), &VirtualEngineSettings::default()).unwrap_err().to_string();
        assert!(said.contains("virtual 3") && said.contains("--device cpu"), "{said}");
    }
}
