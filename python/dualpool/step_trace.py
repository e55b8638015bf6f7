"""What an engine's steps were made of and how long they took, for fitting a timing model.

One record per step, in a file that the Rust side reads when the engine has nothing left to do (`crates/bench/src/engine_timing/trace.rs`).
"""

import struct
import time
from collections import deque

# Begin and end in nanoseconds of the monotonic clock; prompt tokens and decodes; tokens of context that the decodes read; and
# for the prompt tokens the sum of the context that each reads, which is what their attention costs.
RECORD = struct.Struct("<QQIIQQ")

# Records of one engine at most: 40 MB. Later steps are not recorded.
STEPS_MAX = 1_000_000


class StepTrace:
    def __init__(self, path: str) -> None:
        # Unbuffered: a record is there whole or not at all, however the engine ends.
        self._file = open(path, "ab", buffering=0)
        self._begun = deque()  # at most the steps that vLLM has under way: one, or two where it schedules ahead
        self._left = STEPS_MAX

    def begin(self, at: int, shares) -> None:
        """A step was scheduled. `shares`: per request the tokens computed before, those of this step, and how many of these are of
        its prompt."""
        prompt = decodes = context = attention = 0
        for before, scheduled, of_prompt in shares:
            if of_prompt:
                prompt += of_prompt
                # Token i of the share reads the context before it and the share's tokens up to itself.
                attention += of_prompt * before + of_prompt * (of_prompt + 1) // 2
            if scheduled > of_prompt:
                decodes += 1
                context += before + scheduled
        self._begun.append((at, prompt, decodes, context, attention))

    def end(self) -> None:
        """The oldest step under way is over."""
        if self._begun:
            at, *work = self._begun.popleft()
            if self._left:
                self._left -= 1
                self._file.write(RECORD.pack(at, now(), *work))


def now() -> int:
    return time.monotonic_ns()
