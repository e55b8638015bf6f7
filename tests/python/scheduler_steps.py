"""The tunable scheduler step by step, without an engine: `scheduler_steps.py MODEL`. What it schedules counts as computed."""

import os
import struct
import sys
import tempfile
from pathlib import Path

os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="WARNING")

import torch  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.config import KVTransferConfig  # noqa: E402
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec  # noqa: E402
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput  # noqa: E402
from vllm.v1.request import Request, RequestStatus  # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager  # noqa: E402

from dualpool.scheduler import AS_STARTED, LAYOUT, PREFILL_TOKENS_MIN, SALT, TunableScheduler  # noqa: E402
from dualpool.step_trace import RECORD  # noqa: E402
from dualpool.words import DETACH, HOLD, LEG  # noqa: E402

BLOCK = 16
CEILING = 256


class Elsewhere(KVConnectorBase_V1, SupportsHMA):
    """Has the KV of all but the last prompt token of every request that names it, once."""

    def __init__(self, vllm_config, role, kv_cache_config) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.asked: set[str] = set()
        self.cut = False

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        if self.cut or "elsewhere" not in (request.kv_transfer_params or {}) or request.request_id in self.asked:
            return 0, False
        return request.num_tokens - 1 - num_computed_tokens, True

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        if num_external_tokens:
            self.asked.add(request.request_id)

    def build_connector_meta(self, scheduler_output):
        return KVConnectorMetadata()

    def request_finished_all_groups(self, request, block_ids):
        return bool((request.kv_transfer_params or {}).get(HOLD)), None

    start_load_kv = wait_for_layer_load = save_kv_layer = wait_for_save = lambda *_, **__: None


class Bench:
    def __init__(self, model: str, blocks: int = 1000) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.tuning, self.steps = Path(self.folder.name) / "tuning", Path(self.folder.name) / "engine-0.steps"
        self.sequence = 0
        self.tuning.write_bytes(bytes(LAYOUT.size))
        config = EngineArgs(
            model=model,
            skip_tokenizer_init=True,
            max_model_len=4096,
            max_num_seqs=16,
            max_num_batched_tokens=CEILING,
            block_size=BLOCK,
            enable_prefix_caching=False,
            scheduling_policy="priority",
            kv_transfer_config=KVTransferConfig(
                kv_connector="Elsewhere",
                kv_connector_module_path="scheduler_steps",
                kv_role="kv_both",
                kv_load_failure_policy="recompute",
            ),
            additional_config={"dualpool": {"tuning": str(self.tuning), "steps": str(self.steps)}},
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
        self.scheduler = TunableScheduler(config, cache, StructuredOutputManager(config), BLOCK)

    def tune(self, tokens: int = AS_STARTED, threshold: int = AS_STARTED) -> None:
        self.sequence += 1
        values = (self.sequence, tokens, threshold)
        with self.tuning.open("r+b") as file:
            file.write(struct.pack("<4I", *values, values[0] ^ values[1] ^ values[2] ^ SALT))

    def add(self, name: str, tokens: int, comes_with_kv: bool = False) -> None:
        extra = {"kv_transfer_params": {LEG: name} | ({"elsewhere": True} if comes_with_kv else {})}
        params = SamplingParams(temperature=0, max_tokens=500, ignore_eos=True, extra_args=extra)
        request = Request(name, list(range(tokens)), params, None, priority=-1 if comes_with_kv else 0)
        self.scheduler.add_request(request)

    def step(self, fetched=(), failed=()) -> dict[str, int]:
        """Schedules and computes a step, in which these fetches end: what each request got."""
        output = self.scheduler.schedule()
        got = output.num_scheduled_tokens
        requests = self.scheduler.requests
        tokens = [[] if requests[name].is_prefill_chunk else [7] for name in got]
        kv = KVConnectorOutput(finished_recving={*fetched, *failed}, failed_recving=set(failed))
        self.scheduler.update_from_output(
            output, ModelRunnerOutput(list(got), {name: i for i, name in enumerate(got)}, tokens, kv_connector_output=kv)
        )
        # What EngineCore goes by once the step is over.
        self.sleeps = output.total_num_scheduled_tokens == 0
        return got


def answers_come_before_prompts(model: str) -> None:
    """Prompts that were admitted first take no step from answers, however small it is."""
    bench = Bench(model)
    prompts, answers = ("p0", "p1"), [f"a{i}" for i in range(6)]
    bench.tune(threshold=16)
    for prompt in prompts:
        bench.add(prompt, 2000)
    for answer in answers:
        bench.add(answer, 5)
    bench.step()
    for wanted in (1, 12, 17, 40):
        bench.tune(tokens=wanted, threshold=16)
        for _ in range(5):
            got = bench.step()
            assert all(got.get(answer) == 1 for answer in answers), (wanted, got)
            assert sum(got.get(prompt, 0) for prompt in prompts) >= 8, (wanted, got)
            assert sum(got.values()) <= max(wanted, 6 + 2 + 8), (wanted, got)


def legs_with_kv_get_in_beside_prompts(model: str) -> None:
    """A prompt that may take the rest of every step leaves room for a leg that comes with its KV, for its fetch and its token."""
    for wanted, threshold in ((32, 0), (1, 0), (32, 64), (AS_STARTED, 0)):
        bench = Bench(model)
        bench.tune(wanted, threshold)
        bench.add("p0", 4000)
        bench.step()
        bench.add("p1", 500)
        for name in ("l0", "l1"):
            bench.add(name, 100, comes_with_kv=True)
        assert bench.step() == {}, "fetches go first"
        got = bench.step()
        assert bench.scheduler.connector.asked == {"l0", "l1"} and got["p0"] > 0, (wanted, threshold, got)
        bench.step(fetched=["l0", "l1"])
        for _ in range(3):
            got = bench.step()
            assert got["l0"] == got["l1"] == 1 and got["p0"] > 0, (wanted, threshold, got)
        if threshold == 0:
            full = min(max(wanted, len(bench.scheduler.running) + PREFILL_TOKENS_MIN), CEILING)
            assert sum(got.values()) == full, "with no leg on its way prompts take the rest again"


def fetches_go_first_and_cost_no_other_request_a_step(model: str) -> None:
    """A leg that arrives beside answers joins the very next step that computes when its copy is done by then, and only then."""
    bench = Bench(model)
    bench.add("answer", 5)
    bench.add("prompt", 2000)
    bench.step()
    bench.add("quick", 100, comes_with_kv=True)
    assert bench.step(fetched=["quick"]) == {}
    got = bench.step()
    assert got["answer"] == got["quick"] == 1 and got["prompt"] > 0, got
    bench.add("slow", 100, comes_with_kv=True)
    bench.add("late", 50)
    assert bench.step() == {}
    bench.add("next", 100, comes_with_kv=True)
    got = bench.step(fetched=["slow", "next"])
    assert got["answer"] == got["quick"] == 1 and "slow" not in got and "next" not in got, "a step that computes comes between"
    assert bench.scheduler.connector.asked == {"quick", "slow", "next"}
    got = bench.step()
    assert got["slow"] == got["next"] == 1, got


def the_engine_does_not_sleep_while_a_leg_has_its_kv(model: str) -> None:
    """EngineCore sleeps after a step that computed nothing, unless KV came in it. Neither is recorded as a step."""
    bench = Bench(model)
    for beside in ([], ["answer"]):
        for name in beside:
            bench.add(name, 5)
            bench.step()
        quick, slow = (f"{name}-{len(beside)}" for name in ("quick", "slow"))
        recorded = len(bench.steps.read_bytes())
        bench.add(quick, 100, comes_with_kv=True)
        assert bench.step(fetched=[quick]) == {} and not bench.sleeps
        assert len(bench.steps.read_bytes()) == recorded
        assert bench.step()[quick] == 1
        bench.add(slow, 100, comes_with_kv=True)
        assert bench.step() == {} and bench.sleeps
        assert bench.step(fetched=[slow])[quick] == 1 and not bench.sleeps


def no_more_fetches_go_first_than_there_are_seats(model: str) -> None:
    bench = Bench(model)
    for i in range(14):
        bench.add(f"a{i}", 5)
    bench.step()
    legs = [f"l{i}" for i in range(4)]
    for leg in legs:
        bench.add(leg, 20, comes_with_kv=True)
    assert bench.step(fetched=legs[:2]) == {}
    assert bench.scheduler.connector.asked == set(legs[:2])
    got = bench.step()
    assert len(got) == 16 and got["l0"] == got["l1"] == 1, got


def a_leg_for_which_there_is_no_memory_costs_no_other_request_a_step(model: str) -> None:
    bench = Bench(model, blocks=1 + 10)
    bench.add("answer", 5 * BLOCK)
    bench.step()
    bench.add("leg", 8 * BLOCK, comes_with_kv=True)
    steps = [bench.step() for _ in range(8)]
    assert steps.count({}) == 1 and steps.count({"answer": 1}) == 7, steps
    assert bench.scheduler.connector.asked == set()
    bench.scheduler.finish_requests("answer", RequestStatus.FINISHED_ABORTED)
    bench.step(fetched=["leg"])
    assert bench.step() == {"leg": 1}


def with_nothing_to_fetch_a_leg_is_a_prompt_like_any_other(model: str) -> None:
    bench = Bench(model)
    bench.add("answer", 5)
    bench.step()
    bench.scheduler.connector.cut = True
    bench.add("leg", 100, comes_with_kv=True)
    assert bench.step() == {"answer": 1, "leg": 100}


def a_leg_whose_fetch_failed_is_a_prompt_like_any_other(model: str) -> None:
    bench = Bench(model)
    bench.add("l0", 100, comes_with_kv=True)
    assert bench.step(failed=["l0"]) == {}
    assert bench.step() == {"l0": 100}
    assert bench.scheduler.requests["l0"].priority == 0
    assert bench.step() == {"l0": 1}


def prompt_tokens_count_when_they_are_computed(model: str) -> None:
    """Chunk by chunk, and no token of an answer among them."""
    bench = Bench(model)
    bench.add("answer", 5)
    bench.step()
    assert bench.scheduler._prompt_tokens == 5
    bench.tune(threshold=16)
    bench.add("p0", 40)
    bench.add("p1", 20)
    for computed in (5 + 32, 5 + 52, 5 + 60, 5 + 60):
        got = bench.step()
        assert got["answer"] == 1
        assert bench.scheduler._prompt_tokens == computed, (computed, got)


def steps_are_recorded_with_what_they_were_made_of(model: str) -> None:
    """Prompt tokens, decodes, and the context that both read, of every step that computes anything."""
    bench = Bench(model)
    bench.add("answer", 5)
    bench.step()
    bench.tune(threshold=16)
    bench.add("prompt", 40)
    for _ in range(3):
        bench.step()
    records = list(RECORD.iter_unpack(bench.steps.read_bytes()))
    assert all(begin <= end for begin, end, *_ in records), records
    assert all(before[1] <= after[0] for before, after in zip(records, records[1:])), "one after the other"
    # 5 tokens read 1 + 2 + 3 + 4 + 5; the prompt's second slice of 16 reads the 16 before it and itself.
    expected = [(5, 0, 0, 15), (16, 1, 6, 136), (16, 1, 7, 16 * 16 + 136), (8, 1, 8, 8 * 32 + 36)]
    assert [tuple(record[2:]) for record in records] == expected, records


def a_detached_leg_ends_with_its_next_token_and_is_held(model: str) -> None:
    """Whatever it is at, and as often as it is asked; other requests do not notice."""
    bench = Bench(model)
    scheduler = bench.scheduler

    def detach(*legs: str) -> None:
        # vLLM delivers an abort twice.
        for _ in range(2):
            assert not scheduler.finish_requests([DETACH + leg for leg in legs], RequestStatus.FINISHED_ABORTED)

    for name in ("decoding", "other", "aborted"):
        bench.add(name, 5)
    bench.step()
    bench.step()
    bench.tune(tokens=64)
    bench.add("prefilling", 100)
    bench.step()
    bench.add("fetching", 50, comes_with_kv=True)
    assert bench.step() == {}, "its fetch goes first"
    legs = {name: scheduler.requests[name] for name in ("decoding", "prefilling", "fetching")}
    assert [leg.num_output_tokens for leg in legs.values()] == [3, 0, 0]
    detach("decoding", "prefilling", "fetching", "unknown")
    aborted = scheduler.finish_requests([DETACH + "decoding", "aborted"], RequestStatus.FINISHED_ABORTED)
    assert [request.request_id for request in aborted] == ["aborted"]
    for _ in range(4):
        bench.step(fetched=["fetching"] if legs["fetching"].status == RequestStatus.WAITING_FOR_REMOTE_KVS else [])
    for name, outputs in (("decoding", 4), ("prefilling", 1), ("fetching", 1)):
        leg = legs[name]
        assert leg.status == RequestStatus.FINISHED_LENGTH_CAPPED and leg.num_output_tokens == outputs, (name, leg.status)
        assert leg.kv_transfer_params[HOLD], name
    assert not scheduler.requests["other"].is_finished()
    # Over already: nothing to end.
    detach("decoding")
    assert legs["decoding"].num_output_tokens == 4
    assert len(scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)) == 1


if __name__ == "__main__":
    a_detached_leg_ends_with_its_next_token_and_is_held(sys.argv[1])
    prompt_tokens_count_when_they_are_computed(sys.argv[1])
    steps_are_recorded_with_what_they_were_made_of(sys.argv[1])
    answers_come_before_prompts(sys.argv[1])
    legs_with_kv_get_in_beside_prompts(sys.argv[1])
    a_leg_whose_fetch_failed_is_a_prompt_like_any_other(sys.argv[1])
    fetches_go_first_and_cost_no_other_request_a_step(sys.argv[1])
    the_engine_does_not_sleep_while_a_leg_has_its_kv(sys.argv[1])
    no_more_fetches_go_first_than_there_are_seats(sys.argv[1])
    a_leg_for_which_there_is_no_memory_costs_no_other_request_a_step(sys.argv[1])
    with_nothing_to_fetch_a_leg_is_a_prompt_like_any_other(sys.argv[1])
