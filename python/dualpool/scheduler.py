"""vLLM's schedulers, tunable while they run.

Before every step the scheduler looks into a tiny mapped file that the Rust side writes. Both settings are read by vLLM only
inside `schedule()`, so a change takes effect at the next step, also for requests in the middle of their prompt.
"""

import mmap
import struct

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from dualpool import step_trace
from dualpool.step_trace import StepTrace
from dualpool.words import DETACH, HOLD, LEG

# sequence, max_num_batched_tokens, long_prefill_token_threshold, check (the exclusive or of the three and of SALT).
LAYOUT = struct.Struct("<4I")
SALT = 0x64756C70
AS_STARTED = 0xFFFF_FFFF

# Where legs wait whose KV is being fetched: in a queue of their own, or (vLLM 0.26) among others that cannot run yet.
FETCHING_QUEUE = "kv_holding_waiting" if hasattr(Scheduler, "_holds_kv_blocks") else "skipped_waiting"

# Prompt tokens that a step with a small budget takes at least, so that prompts are always getting on.
PREFILL_TOKENS_MIN = 8


class TuningFile:
    """The reader's end. A read that hits the middle of a write fails its check, and the next step reads again."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), LAYOUT.size, access=mmap.ACCESS_READ)
        self._sequence = 0

    def changed(self) -> tuple[int | None, int | None] | None:
        """The settings, when they are newer than those of the last call; None in them means: as the engine was started."""
        sequence, tokens, threshold, check = LAYOUT.unpack_from(self._map)
        if sequence == self._sequence or sequence ^ tokens ^ threshold ^ SALT != check:
            return None
        self._sequence = sequence
        return (None if tokens == AS_STARTED else tokens, None if threshold == AS_STARTED else threshold)


class _Tunable:
    """Mixed into a scheduler of vLLM."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        ours = self.vllm_config.additional_config["dualpool"]
        self._tuning = TuningFile(ours["tuning"])
        self._trace = StepTrace(ours["steps"]) if ours.get("steps") else None
        self._tokens_at_start = self.max_num_scheduled_tokens
        self._tokens_wanted = self._tokens_at_start
        self._threshold_at_start = self.scheduler_config.long_prefill_token_threshold
        self._threshold_wanted = self._threshold_at_start
        self._steps = 0
        self._prompt_tokens = 0
        self._reported = None

    def schedule(self, *args, **kwargs):
        if (settings := self._tuning.changed()) is not None:
            self._tune(*settings)
        begun = step_trace.now() if self._trace else 0
        self._make_room()
        output = super().schedule(*args, **kwargs)
        if output.total_num_scheduled_tokens > 0:
            self._steps += 1
            shares = [self._scheduled(*scheduled) for scheduled in output.num_scheduled_tokens.items()]
            self._prompt_tokens += sum(of_prompt for _, _, of_prompt in shares)
            if self._trace:
                self._trace.begin(begun, shares)
        return output

    def update_from_output(self, scheduler_output, *args, **kwargs):
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        if self._trace and scheduler_output.total_num_scheduled_tokens > 0:
            self._trace.end()
        return outputs

    def _scheduled(self, request_id: str, scheduled: int) -> tuple[int, int, int]:
        """A request's tokens computed before this step, those it got in it, and how many of these are its prompt's. They count as
        computed already."""
        request = self.requests[request_id]
        before = request.num_computed_tokens - scheduled
        return before, scheduled, max(0, min(request.num_prompt_tokens, request.num_computed_tokens) - before)

    def _tune(self, tokens: int | None, threshold: int | None) -> None:
        self._tokens_wanted = self._tokens_at_start if tokens is None else tokens
        self._threshold_wanted = self._threshold_at_start if threshold is None else threshold

    def _make_room(self) -> None:
        """However small the step is wanted, every request that decodes gets its token in it, and prompts get on.

        vLLM spends a step's tokens on running requests in the order of `running`, and only what is left on those that wait. So
        those that decode come first; legs that arrive with their KV need something left over, in which their fetch starts and, once it is over,
        their first token is computed; and running prompts share the rest. Nothing else in vLLM hangs on the order of `running`
        under the `priority` policy, which picks the request to preempt by priority and arrival.
        """
        self.running.sort(key=lambda request: request.is_prefill_chunk)
        prompts = sum(request.is_prefill_chunk for request in self.running)
        decodes, arriving = len(self.running) - prompts, self._arriving()
        floor = len(self.running) + arriving + PREFILL_TOKENS_MIN
        # The ceiling is what the engine's buffers were sized for. It has room for max_num_seqs requests, hence for all of these.
        budget = self.max_num_scheduled_tokens = min(max(self._tokens_wanted, floor), self._tokens_at_start)
        threshold = self._threshold_wanted
        if arriving and prompts:
            share = (budget - decodes - arriving) // prompts
            threshold = min(threshold or share, share)
        self.scheduler_config.long_prefill_token_threshold = threshold

    def _arriving(self) -> int:
        """Legs that come with their KV and could run in this step. Of those whose fetch has not begun, one counts: a fetch
        takes no tokens, so what one needs is enough to start all."""
        if self.connector is None:
            return 0
        waiting = self._fetching() + (bool(self.waiting) and self.waiting.peek_request().priority < 0)
        return min(waiting, self.max_num_running_reqs - len(self.running))

    def _fetching(self) -> int:
        """Legs whose KV is being fetched."""
        return sum(request.status == RequestStatus.WAITING_FOR_REMOTE_KVS for request in getattr(self, FETCHING_QUEUE))

    def _update_waiting_for_remote_kv(self, request) -> None:
        # A leg whose fetch failed computes a prompt like any other, and is no more worth keeping when memory runs out. It is at the
        # head of vLLM's queue here and leaves it next, so its place there does not matter.
        if request.request_id in self.failed_recving_kv_req_ids:
            request.priority = 0
        return super()._update_waiting_for_remote_kv(request)

    def finish_requests(self, request_ids, finished_status):
        """Aborts, and among them those that only ask for a leg to be detached."""
        if isinstance(request_ids, str):
            request_ids = (request_ids,)
        if request_ids is not None:
            request_ids = set(request_ids)
            detaching = {name for name in request_ids if name.startswith(DETACH)}
            if detaching:
                self._detach({name.removeprefix(DETACH) for name in detaching})
                request_ids -= detaching
        return super().finish_requests(request_ids, finished_status)

    def _detach(self, legs: set[str]) -> None:
        """Ends these legs with their next token, or with those that are being computed, as if they had been asked for no more; the
        connector then holds their KV. vLLM delivers an abort twice, in the middle of a step and after it: doing this twice changes
        nothing, for the first time ends the leg with the very next output."""
        for request in self.requests.values():
            params = request.kv_transfer_params
            if params and params.get(LEG) in legs and not request.is_finished():
                params[HOLD] = True
                request.max_tokens = min(request.max_tokens, request.num_output_tokens + max(1, request.num_output_placeholders))

    def make_stats(self, *args, **kwargs):
        # While blocks are held or awaited, vLLM polls with empty steps, a thousand a second, and would send statistics with each.
        running, waiting = self.get_request_counts()
        state = (self._steps, running, waiting, self.kv_cache_manager.usage)
        if state == self._reported:
            return None
        stats = super().make_stats(*args, **kwargs)
        if stats is not None:
            self._reported = state
            # vLLM uses these fields for data parallelism only, which dualpool's engines do not. Its own count of prompt tokens comes
            # with a prompt's last chunk, when a router no longer needs to know how far the prompt is.
            stats.step_counter = self._steps
            stats.current_wave = self._prompt_tokens
        return stats


class TunableScheduler(_Tunable, Scheduler):
    """For engines that schedule a step when the one before is done, as CPU engines do.

    vLLM takes in what was fetched at the end of a step, so a leg that comes with its KV would wait for the step in which its fetch
    begins, and get its token in the one after: its client sees a gap of both. Copies take a millisecond or two, steps many times
    that. So where such a leg arrives beside running requests, a step that computes nothing goes first, in which the worker half waits
    for the copy a moment (`FETCH_WAIT_S`). When the copy takes longer, the engine goes on without the leg as ever.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._fetches_went_first = False
        # The leg for which there was no memory, and the blocks that were free then.
        self._no_room: tuple[str, int] | None = None

    def schedule(self, *args, **kwargs):
        # Never twice in a row: however many legs arrive, every other step computes.
        arrived = [] if self._fetches_went_first or not self.running else self._take_arrived()
        self._fetches_went_first = bool(arrived)
        return self._start_fetches(arrived, *args, **kwargs) if arrived else super().schedule(*args, **kwargs)

    def update_from_output(self, scheduler_output, model_runner_output, *args, **kwargs):
        outputs = super().update_from_output(scheduler_output, model_runner_output, *args, **kwargs)
        kv = model_runner_output.kv_connector_output
        if kv is not None and kv.finished_recving:
            # EngineCore sleeps 1 ms after a step without tokens, and looks here for their number. But there is something to compute now.
            scheduler_output.total_num_scheduled_tokens = max(1, scheduler_output.total_num_scheduled_tokens)
        return outputs

    def _take_arrived(self) -> list[Request]:
        """Legs at the head of the queue whose fetch can begin now, as many as there are seats."""
        seats = self.max_num_running_reqs - len(self.running) - self._fetching()
        arrived, others = [], []
        while self.waiting and self.waiting.peek_request().priority < 0:
            request = self.waiting.pop_request()
            # One that was preempted computes its prompt: its source is gone.
            comes = request.status == RequestStatus.WAITING and len(arrived) < seats
            if comes and not self.connector.get_num_new_matched_tokens(request, 0)[0]:
                # There is nothing to fetch after all (the link is cut), and so it is a prompt like any other.
                request.priority, comes = 0, False
            (arrived if comes else others).append(request)
        if arrived and self._no_room is not None:
            leg, free = self._no_room
            if arrived[0].request_id == leg and self._blocks_left() <= free:
                arrived, others = [], arrived + others
        self.waiting.prepend_requests(others)
        return arrived

    def _start_fetches(self, arrived: list[Request], *args, **kwargs):
        """A step of vLLM's that sees these legs and nothing else."""
        waiting = create_request_queue(self.policy)
        waiting.prepend_requests(arrived)
        hidden = self._swap([], waiting, create_request_queue(self.policy))
        output = super().schedule(*args, **kwargs)
        started, left, fetching = self._swap(*hidden)
        self._no_room = (left.peek_request().request_id, self._blocks_left()) if left else None
        # One whose KV lay in the prefix cache needs no fetch and has its token already.
        self.running.extend(started)
        self.waiting.prepend_requests(left)
        getattr(self, FETCHING_QUEUE).prepend_requests(fetching)
        return output

    def _swap(self, running, waiting, fetching):
        """Lets vLLM see these requests only; returns those it saw before."""
        before = self.running, self.waiting, getattr(self, FETCHING_QUEUE)
        self.running, self.waiting = running, waiting
        setattr(self, FETCHING_QUEUE, fetching)
        return before

    def _blocks_left(self) -> int:
        return self.kv_cache_manager.block_pool.get_num_free_blocks()


class TunableAsyncScheduler(_Tunable, AsyncScheduler):
    """For engines that schedule a step while the one before runs."""
