//! Shared memory with a name. The name says which process made it, so that what a killed process left behind can be told and removed.

use std::ffi::CString;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::script::Script;

const FOLDER: &str = "/dev/shm";
const PREFIX: &str = "fake-cuda";

/// Which shared memory: of one GPU (or of an event), made by one process. The process is known by its start as well, as numbers come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub gpu: u32,
    pub pid: u32,
    pub start: u64,
    pub sequence: u64,
}

impl Name {
    pub fn new(gpu: u32) -> Name {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        Name { gpu, pid, start: start_of(pid).unwrap_or(0), sequence: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn file(&self) -> String {
        let machine = Script::get().map_or("", |script| &script.machine);
        format!("{PREFIX}.{machine}.{}.{}.{}.{}", self.gpu, self.pid, self.start, self.sequence)
    }

    fn parse(file: &str) -> Option<(&str, Name)> {
        let mut parts = file.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.');
        let machine = parts.next()?;
        let (gpu, pid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (start, sequence) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((machine, Name { gpu, pid, start, sequence }))
    }

    pub fn remove(&self) {
        // It may be gone already: another process may have swept it away, when this one is forked.
        let _ = std::fs::remove_file(format!("{FOLDER}/{}", self.file()));
    }
}

/// Bytes of a mapping, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory; that two streams may write to one byte at once is as on a GPU, and accesses are by raw copies only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Creates the memory, with real pages behind it: a full disk of memory is an error here and not a signal later.
    pub fn create(name: Name, bytes: usize) -> io::Result<Mapping> {
        let fd = open(name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?;
        // SAFETY: `fd` is open.
        let error = unsafe { libc::posix_fallocate(fd, 0, bytes as libc::off_t) };
        let mapping = if error == 0 { Mapping::map(fd, bytes) } else { Err(io::Error::from_raw_os_error(error)) };
        // SAFETY: `fd` is open and used no more.
        unsafe { libc::close(fd) };
        mapping.inspect_err(|_| name.remove())
    }

    /// Maps what another process created.
    pub fn open(name: Name, bytes: usize) -> io::Result<Mapping> {
        let fd = open(name, libc::O_RDWR)?;
        let mapping = Mapping::map(fd, bytes);
        // SAFETY: `fd` is open and used no more.
        unsafe { libc::close(fd) };
        mapping
    }

    /// Memory of this process alone.
    pub fn private(bytes: usize) -> io::Result<Mapping> {
        Mapping::new(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, bytes)
    }

    /// Addresses without memory: what touches them faults.
    pub fn reserve(bytes: usize) -> io::Result<Mapping> {
        Mapping::new(libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, bytes)
    }

    fn map(fd: libc::c_int, bytes: usize) -> io::Result<Mapping> {
        Mapping::new(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, bytes)
    }

    fn new(protection: libc::c_int, flags: libc::c_int, fd: libc::c_int, bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Mapping { at: at.cast(), bytes }) }
    }

    pub fn at(&self) -> *mut u8 {
        self.at
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this address and length, and unmapped once.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

fn open(name: Name, flags: libc::c_int) -> io::Result<libc::c_int> {
    let file = CString::new(format!("/{}", name.file())).map_err(io::Error::other)?;
    // SAFETY: `file` is a C string that outlives the call.
    let fd = unsafe { libc::shm_open(file.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// Bytes that all processes of this machine have allocated on a GPU.
pub fn used(gpu: u32) -> u64 {
    let machine = Script::get().map_or("", |script| script.machine.as_str());
    let of_gpu = |file: &str| Name::parse(file).is_some_and(|(of, name)| of == machine && name.gpu == gpu);
    let files = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    files
        .filter(|file| file.file_name().to_str().is_some_and(of_gpu))
        .filter_map(|file| file.metadata().ok())
        .map(|m| m.len())
        .sum()
}

/// Removes what processes that are gone have left behind, of all machines.
pub fn sweep() {
    for file in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let orphan =
            file.file_name().to_str().and_then(Name::parse).is_some_and(|(_, name)| start_of(name.pid) != Some(name.start));
        if orphan {
            // Another process may sweep at the same time.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// Removes all of this process, as the driver frees a process's memory when it ends.
pub extern "C" fn remove_own() {
    let pid = std::process::id();
    for file in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        if file.file_name().to_str().and_then(Name::parse).is_some_and(|(_, name)| name.pid == pid) {
            // The sweep of another process may be faster.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// When a process was started, in ticks since boot; none when there is no such process.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
