//! The transport between engines whose KV memory is a memfd: this process maps both and copies.

use std::collections::BTreeMap;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use xxhash_rust::xxh3::Xxh3Default;

use dualpool_types::EngineId;

use super::copy_plan::ByteRange;
use super::transport::{Memory, Stop, Transport, TransportError};

/// How many bytes are copied between two looks at `stop`: 1 ms of work, at which the look costs nothing.
const CHUNK_BYTES: u64 = 8 << 20;
/// How many bytes are hashed at a time: they fit the processor's cache.
const HASH_BYTES: usize = 256 << 10;

#[derive(Default)]
pub struct ShmTransport {
    maps: BTreeMap<EngineId, MmapRaw>,
}

impl ShmTransport {
    pub fn new() -> ShmTransport {
        ShmTransport::default()
    }

    fn mapping(&self, engine: EngineId) -> Result<&MmapRaw, TransportError> {
        self.maps.get(&engine).ok_or(TransportError::NotMapped { engine })
    }
}

impl Transport for ShmTransport {
    fn map(&mut self, engine: EngineId, memory: Memory) -> Result<(), TransportError> {
        let failed = |why: String| TransportError::Map { engine, why };
        let Memory::Shm { fd, bytes } = memory else { return Err(failed("it is no memfd".into())) };
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|e| failed(format!("it is not a memfd ({e})")))?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            // Reading beyond the end of a file that shrank kills the reader (SIGBUS).
            return Err(failed("its memfd is not sealed against shrinking (F_SEAL_SHRINK)".into()));
        }
        let size = nix::sys::stat::fstat(&fd).map_err(|e| failed(e.to_string()))?.st_size as u64;
        if size < bytes {
            return Err(failed(format!("its memfd has {size} bytes, not the {bytes} it was registered with")));
        }
        let length = usize::try_from(bytes).map_err(|e| failed(e.to_string()))?;
        let map = MmapOptions::new().len(length).map_raw(&fd).map_err(|e| failed(e.to_string()))?;
        if let Err(error) = map.advise(Advice::PopulateRead) {
            // Linux before 5.14. Copies work all the same, but each page's first one takes ten times as long.
            tracing::debug!("{engine}: its KV memory could not be mapped ahead of time: {error}");
        }
        self.maps.insert(engine, map);
        Ok(())
    }

    fn unmap(&mut self, engine: EngineId) {
        self.maps.remove(&engine);
    }

    fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError> {
        let (source, target) = (self.mapping(from)?, self.mapping(to)?);
        for span in plan {
            let mut done = 0;
            while done < span.length {
                if stop.is_set() {
                    return Err(TransportError::Stopped);
                }
                let length = CHUNK_BYTES.min(span.length - done);
                let read = range(source, from, span.source + done, length)?;
                let write = range(target, to, span.target + done, length)?;
                // SAFETY: `range` checked both ranges against their mappings, which live as long as `self.maps` is borrowed.
                // `copy` allows them to overlap (two engines may have registered one memory). No Rust reference to this memory
                // exists; that other processes write to other blocks of it at the same time does not touch these ranges.
                unsafe { std::ptr::copy(read.cast_const(), write, length as usize) };
                done += length;
            }
        }
        Ok(())
    }

    fn checksum(
        &mut self,
        engine: EngineId,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, TransportError> {
        let map = self.mapping(engine)?;
        let mut hash = Xxh3Default::new();
        let mut buffer = vec![0; HASH_BYTES];
        for (offset, length) in ranges {
            let mut done = 0;
            while done < length {
                if stop.is_set() {
                    return Err(TransportError::Stopped);
                }
                let part = (length - done).min(HASH_BYTES as u64);
                let start = range(map, engine, offset + done, part)?;
                // No Rust reference to memory that another process may write: its bytes are copied out, and the copy is hashed.
                // SAFETY: `range` checked the source, whose mapping lives as long as `self.maps` is borrowed; `part` fits the
                // buffer, which is this call's own.
                unsafe { std::ptr::copy_nonoverlapping(start.cast_const(), buffer.as_mut_ptr(), part as usize) };
                hash.update(&buffer[..part as usize]);
                done += part;
            }
        }
        Ok(hash.digest())
    }
}

/// The address of a range that lies within the mapping.
fn range(map: &MmapRaw, engine: EngineId, offset: u64, length: u64) -> Result<*mut u8, TransportError> {
    let bytes = map.len() as u64;
    match offset.checked_add(length) {
        // SAFETY: `offset` is within the mapping, hence within one allocation and below `isize::MAX`.
        Some(end) if end <= bytes => Ok(unsafe { map.as_mut_ptr().add(offset as usize) }),
        end => Err(TransportError::OutOfBounds { engine, end: end.unwrap_or(u64::MAX), bytes }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn memfd(bytes: u64, seal: bool) -> File {
        let fd = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(bytes).unwrap();
        if seal {
            fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        }
        file
    }

    fn memory(file: &File, bytes: u64) -> Memory {
        Memory::Shm { fd: OwnedFd::from(file.try_clone().unwrap()), bytes }
    }

    #[test]
    fn copies_and_checksums_through_other_peoples_memory() {
        let (a, b) = (memfd(4096, true), memfd(8192, true));
        let (source, target) = (EngineId(0), EngineId(1));
        let mut shm = ShmTransport::new();
        shm.map(source, memory(&a, 4096)).unwrap();
        shm.map(target, memory(&b, 8192)).unwrap();
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 7 % 251) as u8).collect();
        a.write_all_at(&bytes, 0).unwrap();
        let plan = [ByteRange { source: 0, target: 5000, length: 100 }, ByteRange { source: 3000, target: 1, length: 1096 }];
        shm.copy(&plan, source, target, &Stop::default()).unwrap();
        let mut got = vec![0; 8192];
        b.read_exact_at(&mut got, 0).unwrap();
        let mut want = vec![0; 8192];
        want[5000..5100].copy_from_slice(&bytes[..100]);
        want[1..1097].copy_from_slice(&bytes[3000..]);
        assert_eq!(got, want);
        let sum = |shm: &mut ShmTransport, engine, ranges: &[(u64, u64)]| {
            shm.checksum(engine, &mut ranges.iter().copied(), &Stop::default()).unwrap()
        };
        let of_source = sum(&mut shm, source, &[(0, 100), (3000, 1096)]);
        assert_eq!(of_source, sum(&mut shm, target, &[(5000, 100), (1, 1096)]));
        assert_ne!(of_source, sum(&mut shm, target, &[(5000, 100), (2, 1096)]));
    }

    #[test]
    fn what_is_out_of_bounds_gone_or_stopped_is_refused() {
        let file = memfd(4096, true);
        let (source, target) = (EngineId(0), EngineId(1));
        let mut shm = ShmTransport::new();
        shm.map(source, memory(&file, 4096)).unwrap();
        let plan = [ByteRange { source: 4000, target: 0, length: 97 }];
        assert!(matches!(shm.copy(&plan, source, source, &Stop::default()), Err(TransportError::OutOfBounds { end: 4097, .. })));
        let plan = [ByteRange { source: u64::MAX, target: 0, length: 1 }];
        assert!(matches!(shm.copy(&plan, source, source, &Stop::default()), Err(TransportError::OutOfBounds { .. })));
        assert!(matches!(
            shm.copy(&plan, source, target, &Stop::default()),
            Err(TransportError::NotMapped { engine: EngineId(1) })
        ));
        let stop = Stop::default();
        stop.set();
        let plan = [ByteRange { source: 0, target: 2048, length: 1 }];
        assert!(matches!(shm.copy(&plan, source, source, &stop), Err(TransportError::Stopped)));
        assert!(matches!(shm.checksum(source, &mut [(0, 1)].into_iter(), &stop), Err(TransportError::Stopped)));
        shm.unmap(source);
        assert!(matches!(shm.copy(&plan, source, source, &Stop::default()), Err(TransportError::NotMapped { .. })));
    }

    #[test]
    fn memory_that_could_vanish_is_not_mapped() {
        let mut shm = ShmTransport::new();
        let mut why = |file: &File, bytes| shm.map(EngineId(3), memory(file, bytes)).unwrap_err().to_string();
        assert!(why(&memfd(4096, false), 4096).contains("engine-3: its memfd is not sealed"));
        assert!(why(&memfd(4096, true), 4097).contains("4096 bytes, not the 4097"));
        assert!(why(&File::open("/dev/null").unwrap(), 0).contains("not a memfd"));
    }
}
