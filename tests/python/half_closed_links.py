"""When the worker half may ask for blocks to be written, and when it may let go of them. The second is about a link that the connector
has given up and the controller not yet closed: a mover may still be writing to the engine's blocks, so none of them is let go."""

import json
import os
import socket
import tempfile
import threading
from types import SimpleNamespace

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from dualpool.connector import link as link_module  # noqa: E402
from dualpool.connector.link import MESSAGE_BYTES_MAX, Link  # noqa: E402
from dualpool.connector.memory import SharedKvMemory  # noqa: E402
from dualpool.connector.params import Source  # noqa: E402
from dualpool.connector.scheduler_half import LoadOrder, StepMetadata  # noqa: E402
from dualpool.connector.worker_half import WorkerHalf  # noqa: E402


class Controller:
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
        self.worker = WorkerHalf(Link(path, 0, "worker"), SimpleNamespace(kv_cache_groups=[]), SharedKvMemory())

    def say(self, **message) -> None:
        self.end.send(json.dumps(message).encode())

    def read(self) -> dict | None:
        data = self.end.recv(MESSAGE_BYTES_MAX)
        return json.loads(data) if data else None


def step(worker: WorkerHalf, *loads: int, blocks: int = 2, holds: dict | None = None):
    orders = [LoadOrder(f"r{n}", f"{n}.1", Source(1, f"{n}.0", 10), [(0, list(range(blocks)))]) for n in loads]
    worker.step(StepMetadata(orders, holds=holds or {}))
    return worker.report()


def nothing_is_let_go_before_the_controller_closes(folder: str) -> None:
    controller = Controller(folder)
    worker = controller.worker
    report = step(worker, 1, 2, holds={"h": "7.0", "g": "8.0"})
    assert not report.received and not report.sent
    # The controller stops reading; its socket fills up, until a load finds no room.
    link_module.SEND_TIMEOUT_S = 0.01
    n = 3
    while not (report := step(worker, n)).received:
        n += 1
    assert report.received == report.failed == {f"r{n}"}, "what was never asked for is computed at once"
    assert not report.sent and not worker.link.alive and not worker.link.closed
    report = step(worker)
    assert not report.received and not report.sent, "a copy may still be going on"
    # What the controller says still counts.
    controller.say(type="loaded", leg="1.1", error=None)
    controller.say(type="release", leg="7.0")
    report = step(worker)
    assert (report.received, report.failed, report.sent) == ({"r1"}, set(), {"h"})
    # It finds all that was said, then the end; then it closes.
    legs = [message["leg"] for message in iter(controller.read, None)]
    assert legs == [f"{i}.1" for i in range(1, n)], legs
    assert not step(worker).received
    controller.end.close()
    report = step(worker)
    assert report.received == report.failed == {f"r{i}" for i in range(2, n)} and report.sent == {"g"}
    assert worker.link.closed


def garbage_ends_one_side_only(folder: str) -> None:
    controller = Controller(folder)
    worker = controller.worker
    step(worker, 1, holds={"h": "7.0"})
    controller.end.send(b"\xfe garbage")
    controller.end.send(b"[1]")
    report = step(worker)
    assert not report.received and not report.sent
    assert controller.read()["type"] == "load" and controller.read() is None, "the controller is told"
    controller.end.close()
    report = step(worker)
    assert report.failed == {"r1"} and report.sent == {"h"}


def a_message_that_is_too_long_fails_alone(folder: str) -> None:
    controller = Controller(folder)
    worker = controller.worker
    assert step(worker, 1, blocks=100_000).failed == {"r1"}
    assert worker.link.alive and not step(worker, 2).received
    assert controller.read()["leg"] == "2.1"
    worker.shutdown()
    controller.end.close()


class LateMemory(SharedKvMemory):
    """Of a device that works behind the steps: each mark is reached when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: list[bool] = []

    def mark(self):
        index = len(self.reached)
        self.reached.append(False)
        return SimpleNamespace(query=lambda: self.reached[index])


def a_load_waits_until_the_device_has_done_what_was_queued_before(folder: str) -> None:
    controller = Controller(folder)
    worker = controller.worker
    worker.memory = memory = LateMemory()
    controller.end.setblocking(False)

    def asked() -> list[str]:
        legs = []
        while True:
            try:
                legs.append(controller.read()["leg"])
            except BlockingIOError:
                return legs

    step(worker, 1, 2)
    step(worker, 3)
    assert asked() == [] and memory.reached == [False, False], "a mark per step that orders loads"
    memory.reached[0] = True
    step(worker)
    assert asked() == ["1.1", "2.1"]
    memory.reached[1] = True
    worker.step(StepMetadata(idle=True))
    assert asked() == ["3.1"]
    # What was never asked for is computed, mark or not, once the controller is gone.
    step(worker, 4)
    controller.end.close()
    assert step(worker).failed == {"r1", "r2", "r3", "r4"}


if __name__ == "__main__":
    checks = (
        nothing_is_let_go_before_the_controller_closes,
        garbage_ends_one_side_only,
        a_message_that_is_too_long_fails_alone,
        a_load_waits_until_the_device_has_done_what_was_queued_before,
    )
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(folder)
