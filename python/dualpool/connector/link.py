"""One connector half's connection to the controller: JSON messages over a SOCK_SEQPACKET Unix socket."""

import json
import logging
import os
import select
import socket
from typing import Any

import vllm

logger = logging.getLogger("vllm.dualpool")

PROTOCOL = 1
# Bounds shared with the controller (src/migrate/control/wire.rs).
MESSAGE_BYTES_MAX = 196_608
# The longest this half waits: for the controller's answer while the engine starts, and for room to send later on.
REPLY_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 2.0


class Refused(RuntimeError):
    """The controller does not take this engine; the message is its reason."""


class Link:
    """Sends block for at most SEND_TIMEOUT_S, receives never do. Once the link is cut it stays cut and swallows messages:
    the engine then goes on serving without hand-off."""

    def __init__(self, path: str, engine: int, half: str) -> None:
        self.name = f"engine-{engine} {half}"
        self.alive = True
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(REPLY_TIMEOUT_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            raise ConnectionError(f"{self.name} cannot reach the dualpool controller at {path}: {error}") from error
        self._writable = select.poll()
        self._writable.register(self._socket, select.POLLOUT)
        hello = {"type": "hello", "protocol": PROTOCOL, "engine": engine, "half": half, "pid": os.getpid()}
        self.ask({**hello, "vllm": vllm.__version__}, "welcome")

    def ask(self, message: dict[str, Any], expected: str, fds: tuple[int, ...] = ()) -> None:
        """Sends a message and waits for its answer. Only while the engine starts; raises Refused with the controller's reason."""
        self._socket.settimeout(REPLY_TIMEOUT_S)
        socket.send_fds(self._socket, [self._encode(message)], list(fds))
        data = self._socket.recv(MESSAGE_BYTES_MAX)
        # From now on by hand: a socket with a timeout would wait in `receive` too.
        self._socket.setblocking(False)
        answer = json.loads(data) if data else {"type": "refused", "why": "the controller closed the connection"}
        if answer["type"] != expected:
            raise Refused(f"the dualpool controller refused {self.name}: {answer.get('why', answer)}")

    def send(self, message: dict[str, Any]) -> bool:
        """False when the link is cut, now or before."""
        if self.alive:
            try:
                data = self._encode(message)
                try:
                    self._socket.send(data)
                except BlockingIOError:
                    self._writable.poll(SEND_TIMEOUT_S * 1000)
                    self._socket.send(data)
            except (OSError, ValueError) as error:
                self.cut(str(error))
        return self.alive

    def receive(self) -> list[dict[str, Any]]:
        """All messages that have arrived; never waits."""
        messages = []
        while self.alive:
            try:
                data = self._socket.recv(MESSAGE_BYTES_MAX)
                if not data:
                    self.cut("the controller closed it")
                    break
                message = json.loads(data)
                if not isinstance(message, dict):
                    raise ValueError(f"not a message: {message!r}")
                messages.append(message)
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                self.cut(str(error))
        return messages

    def cut(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._socket.close()
            logger.warning("dualpool: %s lost its control connection (%s); serving on without KV hand-off", self.name, why)

    def close(self) -> None:
        self.alive = False
        self._socket.close()

    def _encode(self, message: dict[str, Any]) -> bytes:
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a `{message['type']}` message of {len(data)} bytes is over the limit of {MESSAGE_BYTES_MAX}")
        return data
