"""One connector half's connection to the broker: JSON messages over a SOCK_SEQPACKET Unix socket."""

import contextlib
import json
import logging
import os
import select
import socket
from typing import Any

import vllm

logger = logging.getLogger("vllm.dualpool")

PROTOCOL = 2
# Bounds shared with the broker (`crates/kv/src/control/wire.rs`).
MESSAGE_BYTES_MAX = 196_608
# The longest this half waits: for the broker's answer while the engine starts, and for room to send later on.
REPLY_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 2.0


class Refused(RuntimeError):
    """The broker does not take this engine; the message is its reason."""


class Link:
    """Sends block for at most SEND_TIMEOUT_S, receives never do.

    A link ends in two steps, because the mover may be writing to this engine's blocks until the broker closes its end:
    - `alive` ends when either side gives up. Nothing is sent from then on, and the engine goes on serving without hand-off.
    - `closed` begins with the broker's end of file, before which no block that a copy may touch is given back.
    """

    def __init__(self, path: str, engine: int, half: str) -> None:
        self.name = f"engine-{engine} {half}"
        self.alive = True
        self.closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(REPLY_TIMEOUT_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            raise ConnectionError(f"{self.name} cannot reach dualpool at {path}: {error}") from error
        self._writable = select.poll()
        self._writable.register(self._socket, select.POLLOUT)
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        hello = {"type": "hello", "protocol": PROTOCOL, "engine": engine, "half": half, "pid": os.getpid()}
        self.ask({**hello, "vllm": vllm.__version__}, "welcome")

    def ask(self, message: dict[str, Any], expected: str, fds: tuple[int, ...] = ()) -> None:
        """Sends a message and waits for its answer. Only while the engine starts; raises Refused with the broker's reason."""
        self._socket.settimeout(REPLY_TIMEOUT_S)
        socket.send_fds(self._socket, [self._encode(message)], list(fds))
        data = self._socket.recv(MESSAGE_BYTES_MAX)
        # From now on by hand: a socket with a timeout would wait in `receive` too.
        self._socket.setblocking(False)
        answer = json.loads(data) if data else {"type": "refused", "why": "dualpool closed the connection"}
        if answer["type"] != expected:
            raise Refused(f"dualpool refused {self.name}: {answer.get('why', answer)}")

    def send(self, message: dict[str, Any]) -> bool:
        """False when the broker will not get it: the link has ended, or the message is too long (which does not end it)."""
        try:
            data = self._encode(message)
        except ValueError as error:
            logger.warning("dualpool: %s cannot send to dualpool: %s", self.name, error)
            return False
        if self.alive:
            try:
                try:
                    self._socket.send(data)
                except BlockingIOError:
                    self._writable.poll(SEND_TIMEOUT_S * 1000)
                    self._socket.send(data)
            except OSError as error:
                self.give_up(f"sending failed: {error}")
        return self.alive

    def receive(self) -> list[dict[str, Any]]:
        """All messages that have arrived; never waits. What the broker says counts until it closes its end."""
        messages = []
        while not self.closed:
            try:
                data = self._socket.recv(MESSAGE_BYTES_MAX)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""  # closed before it had read everything
            except OSError as error:
                self.give_up(f"receiving failed: {error}")
                break
            if not data:
                self.give_up("dualpool closed it")
                self.close()
                break
            try:
                message = json.loads(data)
                if not isinstance(message, dict):
                    raise ValueError(f"not a message: {message!r}")
            except ValueError as error:
                self.give_up(str(error))
            else:
                messages.append(message)
        return messages

    def wait(self, seconds: float) -> None:
        """Until there is something to receive, or so long."""
        if not self.closed:
            self._readable.poll(seconds * 1000)

    def give_up(self, why: str) -> None:
        """Ends this side of the link: the broker then stops its copies, and closes the other."""
        if self.alive:
            self.alive = False
            logger.warning("dualpool: %s lost its control connection (%s); serving on without KV hand-off", self.name, why)
            with contextlib.suppress(OSError):  # the other side may be gone
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.alive, self.closed = False, True
        self._socket.close()

    def _encode(self, message: dict[str, Any]) -> bytes:
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a `{message['type']}` message of {len(data)} bytes is over the limit of {MESSAGE_BYTES_MAX}")
        return data
