//! An engine's process by its pidfd, which, unlike a process id, never comes to name another process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

pub(super) struct Process {
    pub pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// Opens a child that has not been waited for yet.
    pub(super) fn open(pid: u32) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this descriptor to us alone; it fits an i32 as all descriptors do.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Process { pid, fd })
    }

    /// Readable when the process has ended.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends SIGKILL; nothing when the process is gone.
    pub(super) fn kill(&self) {
        // SAFETY: the descriptor is open, and a null siginfo is allowed.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<libc::siginfo_t>(), 0)
        };
    }

    /// How an ended process ended. Leaves the waiting to `multiprocessing`, which may have done it already.
    pub(super) fn ending(&self) -> Ending {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::PIDFd(self.fd.as_fd()), flags) {
            Ok(WaitStatus::Signaled(_, signal, _)) => Ending::Killed(signal),
            Ok(WaitStatus::Exited(_, code)) => Ending::Exited(code),
            _ => Ending::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Killed(Signal),
    Exited(i32),
    Unknown,
}

impl Ending {
    pub(super) fn is_kill(self) -> bool {
        matches!(self, Ending::Killed(_))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Killed(signal) => write!(f, "was killed by {signal}"),
            Ending::Exited(code) => write!(f, "ended with exit code {code}"),
            Ending::Unknown => f.write_str("ended"),
        }
    }
}
