//! A virtual engine's end of the control socket: both halves of a connector in one.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, setsockopt, shutdown,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use dualpool_kv::wire::{Half, MESSAGE_BYTES_MAX, PROTOCOL, Register, ToBroker, ToEngine};
use dualpool_types::EngineId;

/// The longest wait for an answer while the engine starts, and for room to send.
const REPLY_WAIT_S: i64 = 60;
const SEND_WAIT_S: i64 = 2;

pub(super) struct Link {
    scheduler: OwnedFd,
    worker: OwnedFd,
}

impl Link {
    /// Connects both halves and registers the memory; `fd` goes along.
    pub(super) fn open(path: &Path, engine: EngineId, register: Register, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<Link> {
        let link = Link { scheduler: connected(path)?, worker: connected(path)? };
        for (socket, half) in [(&link.scheduler, Half::Scheduler), (&link.worker, Half::Worker)] {
            let vllm = format!("none ({engine} is a virtual engine)");
            let hello = ToBroker::Hello { protocol: PROTOCOL, engine, half, pid: std::process::id(), vllm };
            ask(socket, &hello, None, &ToEngine::Welcome {})?;
        }
        ask(&link.worker, &ToBroker::Register(register), fd, &ToEngine::Registered {})?;
        // From here on messages come when they come.
        setsockopt(&link.worker, ReceiveTimeout, &TimeVal::zero())?;
        Ok(link)
    }

    /// As the half that may say it. Any thread may call it: a message is sent whole or not at all.
    pub(super) fn send(&self, message: &ToBroker) -> anyhow::Result<()> {
        let socket = match message {
            ToBroker::Held { .. } | ToBroker::Skip { .. } => &self.scheduler,
            _ => &self.worker,
        };
        send(socket, message, None)
    }

    /// The next message to the worker half; none once the broker has closed its end. Waits for it. An error is a message that cannot
    /// be read; others may follow.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> serde_json::Result<Option<ToEngine>> {
        loop {
            match recv(self.worker.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) if length > 0 => return serde_json::from_slice(&buffer[..length]).map(Some),
                Err(Errno::EINTR) => {}
                // A connection that is reset or broken has no other end.
                Ok(_) | Err(_) => return Ok(None),
            }
        }
    }

    /// Ends this side. The broker then stops its copies from and to this engine, and closes the other side.
    pub(super) fn give_up(&self) {
        for socket in [&self.scheduler, &self.worker] {
            // Gone already: just as well.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
        }
    }
}

/// A buffer for `Link::receive`.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; MESSAGE_BYTES_MAX]
}

fn connected(path: &Path) -> anyhow::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(REPLY_WAIT_S))?;
    setsockopt(&fd, SendTimeout, &TimeVal::seconds(SEND_WAIT_S))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)
        .with_context(|| format!("cannot reach the control socket {}", path.display()))?;
    Ok(fd)
}

fn ask(socket: &OwnedFd, message: &ToBroker, fd: Option<BorrowedFd<'_>>, expected: &ToEngine) -> anyhow::Result<()> {
    send(socket, message, fd)?;
    let mut buffer = buffer();
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("the broker did not answer")?;
    if length == 0 {
        bail!("the broker closed the connection");
    }
    match serde_json::from_slice(&buffer[..length])? {
        ToEngine::Refused { why } => bail!("the broker refused this engine: {why}"),
        answer if answer == *expected => Ok(()),
        other => bail!("the broker answered {other:?}"),
    }
}

fn send(socket: &OwnedFd, message: &ToBroker, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        bail!("a message of {} bytes is over the limit of {MESSAGE_BYTES_MAX}", bytes.len());
    }
    let fds: Vec<i32> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)
        .context("the broker does not read")?;
    Ok(())
}
