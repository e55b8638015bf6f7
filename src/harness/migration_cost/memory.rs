//! Memory of our own where an engine on a device would have its KV, so that copies can be measured without engines.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use crate::core::Bytes;
use crate::device::{CoreSet, Device};
use crate::migrate::{Memory, ShmTransport, Transport};

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("{device} has no memory to copy from or to; use --device cpu or --device gpu")]
    Virtual { device: String },
    #[error("{device} is a GPU, and this build copies between CPU engines only; use --device cpu")]
    Gpu { device: String },
    #[error("cannot get {bytes} of memory on {device}: {why}")]
    Refused { device: String, bytes: Bytes, why: String },
}

/// What moves bytes between engines on these two devices, and its name.
pub fn transport(from: &Device, to: &Device) -> Result<(&'static str, Box<dyn Transport>), MemoryError> {
    match (from, to) {
        (Device::Cores(_), Device::Cores(_)) => Ok(("shm", Box::new(ShmTransport::new()))),
        (Device::Gpu(_), _) => Err(MemoryError::Gpu { device: from.to_string() }),
        (_, Device::Gpu(_)) => Err(MemoryError::Gpu { device: to.to_string() }),
        (Device::Virtual(_), _) => Err(MemoryError::Virtual { device: from.to_string() }),
        (_, Device::Virtual(_)) => Err(MemoryError::Virtual { device: to.to_string() }),
    }
}

/// Memory as an engine on this device would register it.
pub fn on(device: &Device, bytes: Bytes) -> Result<Memory, MemoryError> {
    match device {
        Device::Cores(set) => {
            let refused = |why: String| MemoryError::Refused { device: device.to_string(), bytes, why };
            Ok(Memory::Shm { fd: touched(set, bytes).map_err(|e| refused(e.to_string()))?, bytes: bytes.0 })
        }
        Device::Gpu(_) => Err(MemoryError::Gpu { device: device.to_string() }),
        Device::Virtual(_) => Err(MemoryError::Virtual { device: device.to_string() }),
    }
}

/// How much is written at a time while memory is touched.
const PIECE: usize = 4 << 20;

/// A memfd whose pages are all there, and lie where an engine on these cores would have put them: on the node of who writes first.
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
    use crate::core::EngineId;
    use crate::device::machine_core_sets;
    use crate::migrate::Stop;

    #[test]
    fn memory_of_a_core_set_is_whole_and_can_be_mapped() {
        let device = Device::Cores(machine_core_sets(1).unwrap().remove(0));
        let bytes = Bytes((9 << 20) + 4096);
        let memory = on(&device, bytes).unwrap();
        assert_eq!(memory.bytes(), bytes.0);
        let (name, mut transport) = transport(&device, &device).unwrap();
        transport.map(EngineId(0), memory).unwrap();
        let mut sum = |offset| transport.checksum(EngineId(0), &mut [(offset, 4096)].into_iter(), &Stop::default()).unwrap();
        assert_eq!((name, sum(0)), ("shm", sum(9 << 20)), "every page was written");
    }

    #[test]
    fn devices_without_memory_of_their_own_are_named() {
        let said = on(&Device::Virtual(3), Bytes(1)).unwrap_err().to_string();
        assert!(said.contains("virtual 3") && said.contains("--device cpu"), "{said}");
        assert!(transport(&Device::Virtual(0), &Device::Virtual(1)).is_err());
    }
}
