//! One accepted connection: whole messages in and out, never blocking.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use thiserror::Error;

use super::wire::{MESSAGE_BYTES_MAX, ToBroker, ToEngine};

/// Messages that may wait for an engine to read. An engine reads between two steps; one that lets this many pile up is stuck.
pub(super) const OUTBOX_MAX: usize = 8192;

#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    #[error("it was closed by the engine")]
    Closed,
    #[error("it sent a message of over {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("it sent garbage ({why}): {start}")]
    Garbage { why: String, start: String },
    #[error("{OUTBOX_MAX} messages wait for it to read, the most there may be")]
    NotReading,
    #[error("the socket failed: {0}")]
    Socket(#[from] Errno),
}

pub(super) struct Connection {
    socket: OwnedFd,
    outbox: VecDeque<Vec<u8>>,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Connection {
        Connection { socket, outbox: VecDeque::new() }
    }

    /// The next message and the file descriptor that came with it; none when there is none.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(ToBroker, Option<OwnedFd>)>, ConnectionError> {
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::ECONNRESET) => return Err(ConnectionError::Closed),
            Err(error) => return Err(error.into()),
        };
        let mut handle = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for fd in fds {
                    // SAFETY: the kernel made this descriptor for this call; nothing else owns it. All but the last are closed.
                    handle = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(ConnectionError::TooLong);
        }
        let length = message.bytes;
        if length == 0 {
            return Err(ConnectionError::Closed);
        }
        let bytes = &buffer[..length];
        let message = serde_json::from_slice(bytes).map_err(|e| ConnectionError::Garbage {
            why: e.to_string(),
            start: String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).escape_debug().to_string(),
        })?;
        Ok(Some((message, handle)))
    }

    /// Sends now, or as soon as the engine has read what waits before it.
    pub(super) fn send(&mut self, message: &ToEngine) -> Result<(), ConnectionError> {
        if self.outbox.len() >= OUTBOX_MAX {
            return Err(ConnectionError::NotReading);
        }
        // Our own messages are plain data, whose serialisation cannot fail.
        let bytes = serde_json::to_vec(message).unwrap_or_default();
        self.outbox.push_back(bytes);
        self.flush()
    }

    pub(super) fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some(bytes) = self.outbox.front() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => {
                    self.outbox.pop_front();
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(ConnectionError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits for the engine to read.
    pub(super) fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
