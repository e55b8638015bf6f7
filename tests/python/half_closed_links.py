"""When the worker half may ask for blocks to be written, and when it may let go of them. The second is about a link that the connector
has given up and the broker not yet closed: the mover may still be writing to the engine's blocks, so none of them is given back."""

import json
import os
import socket
import tempfile
import threading
from types import SimpleNamespace

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from dualpool.connector import link as link_module  # noqa: E402
from dualpool.connector.link import MESSAGE_BYTES_MAX, Link  # noqa: E402
from dualpool.connector.memory import ShmKvMemory  # noqa: E402
from dualpool.connector.params import KvSource  # noqa: E402
from dualpool.connector.scheduler_half import FetchOrder, StepMetadata  # noqa: E402
from dualpool.connector.worker_half import WorkerHalf  # noqa: E402


class Broker:
    """The other end of a worker half's link, by hand."""

    def __init__(self, folder: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"{folder}/control.sock")
        listener.listen()
        connecting = threading.Thread(target=self._connect, args=(f"{folder}/control.sock",))
        connecting.start()
        self.end, _ = listener.accept()
        assert self.read()["type"] == "hello"
        self.say(type="welcome")
        connecting.join()
        listener.close()

    def _connect(self, path: str) -> None:
        self.worker = WorkerHalf(Link(path, 0, "worker"), SimpleNamespace(kv_cache_groups=[]), ShmKvMemory())

    def say(self, **message) -> None:
        self.end.send(json.dumps(message).encode())

    def read(self) -> dict | None:
        data = self.end.recv(MESSAGE_BYTES_MAX)
        return json.loads(data) if data else None


def step(worker: WorkerHalf, *fetches: int, blocks: int = 2, holds: dict | None = None):
    orders = [FetchOrder(f"r{n}", f"{n}.1", KvSource(1, f"{n}.0", 10), [(0, list(range(blocks)))]) for n in fetches]
    worker.step(StepMetadata(orders, holds=holds or {}))
    return worker.report()


def nothing_is_given_back_before_the_broker_closes(folder: str) -> None:
    broker = Broker(folder)
    worker = broker.worker
    report = step(worker, 1, 2, holds={"h": "7.0", "g": "8.0"})
    assert not report.received and not report.sent
    # The broker stops reading; its socket fills up, until a fetch finds no room.
    link_module.SEND_TIMEOUT_S = 0.01
    n = 3
    while not (report := step(worker, n)).received:
        n += 1
    assert report.received == report.failed == {f"r{n}"}, "what was never asked for is computed at once"
    assert not report.sent and not worker.link.alive and not worker.link.closed
    report = step(worker)
    assert not report.received and not report.sent, "a copy may still be going on"
    # What the broker says still counts.
    broker.say(type="fetched", leg="1.1", error=None)
    broker.say(type="release", leg="7.0")
    report = step(worker)
    assert (report.received, report.failed, report.sent) == ({"r1"}, set(), {"h"})
    # It finds all that was said, then the end; then it closes.
    legs = [message["leg"] for message in iter(broker.read, None)]
    assert legs == [f"{i}.1" for i in range(1, n)], legs
    assert not step(worker).received
    broker.end.close()
    report = step(worker)
    assert report.received == report.failed == {f"r{i}" for i in range(2, n)} and report.sent == {"g"}
    assert worker.link.closed


def garbage_ends_one_side_only(folder: str) -> None:
    broker = Broker(folder)
    worker = broker.worker
    step(worker, 1, holds={"h": "7.0"})
    broker.end.send(b"\xfe garbage")
    broker.end.send(b"[1]")
    report = step(worker)
    assert not report.received and not report.sent
    assert broker.read()["type"] == "fetch" and broker.read() is None, "the broker is told"
    broker.end.close()
    report = step(worker)
    assert report.failed == {"r1"} and report.sent == {"h"}


def a_message_that_is_too_long_fails_alone(folder: str) -> None:
    broker = Broker(folder)
    worker = broker.worker
    assert step(worker, 1, blocks=100_000).failed == {"r1"}
    assert worker.link.alive and not step(worker, 2).received
    assert broker.read()["leg"] == "2.1"
    worker.shutdown()
    broker.end.close()


class LateMemory(ShmKvMemory):
    """Of a device that works behind the steps: each mark is reached when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: list[bool] = []

    def mark(self):
        index = len(self.reached)
        self.reached.append(False)
        return SimpleNamespace(query=lambda: self.reached[index])


def a_fetch_waits_until_the_device_has_done_what_was_queued_before(folder: str) -> None:
    broker = Broker(folder)
    worker = broker.worker
    worker.memory = memory = LateMemory()
    broker.end.setblocking(False)

    def asked() -> list[str]:
        legs = []
        while True:
            try:
                legs.append(broker.read()["leg"])
            except BlockingIOError:
                return legs

    step(worker, 1, 2)
    step(worker, 3)
    assert asked() == [] and memory.reached == [False, False], "a mark per step that orders fetches"
    memory.reached[0] = True
    step(worker)
    assert asked() == ["1.1", "2.1"]
    memory.reached[1] = True
    worker.step(StepMetadata(idle=True))
    assert asked() == ["3.1"]
    # What was never asked for is computed, mark or not, once the broker is gone.
    step(worker, 4)
    broker.end.close()
    assert step(worker).failed == {"r1", "r2", "r3", "r4"}


if __name__ == "__main__":
    checks = (
        nothing_is_given_back_before_the_broker_closes,
        garbage_ends_one_side_only,
        a_message_that_is_too_long_fails_alone,
        a_fetch_waits_until_the_device_has_done_what_was_queued_before,
    )
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(folder)
