#!/usr/bin/env python3
"""Recomputes the figures and verdicts of runs from their raw files, and says where `summary.json` has others.

It shares no code with dualpool and goes by docs/measuring.md and docs/artifacts.md. Where it disagrees with a summary, the program,
this script or the documents are wrong. A figure that is in a summary and not in here is an error, too.

Exit code 0: all agree; 1: something differs, or a file is not as it must be; 2: bad usage. It needs Python 3.10 or newer alone.
"""

import argparse
import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Callable

SCHEMA_VERSION = 3
# Figures agree that differ by less than this share, or are both less than the second: what rounding leaves of 0.
RELATIVE, ABSOLUTE = 1e-9, 1e-15


class Broken(Exception):
    """A file is not as it must be."""


# --- Files ------------------------------------------------------------------------------------------------------------------------


class Record(dict):
    """A JSON object that knows where it stands, for what it lacks."""

    where = ""

    def __missing__(self, key):
        raise Broken(f"{self.where}: there is no `{key}`")


def parse(text: str, where: str):
    def record(pairs: dict) -> Record:
        record = Record(pairs)
        record.where = where
        return record

    value = json.loads(text, object_hook=record)
    if not isinstance(value, Record):
        raise Broken(f"{where}: it is no JSON object")
    return value


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Broken(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def document(path: Path) -> Record:
    try:
        return parse(text_of(path), str(path))
    except json.JSONDecodeError as error:
        raise Broken(f"{path}: {error}") from None


def lines(path: Path) -> list[Record]:
    """All lines of a file. The last one counts only if it is whole: a program that was killed leaves a part of it."""
    whole, _, rest = text_of(path).rpartition("\n")
    records = []
    for number, line in enumerate([*whole.splitlines(), *([rest] if rest else [])], 1):
        try:
            records.append(parse(line, f"{path} line {number}"))
        except json.JSONDecodeError as error:
            if line is not rest:
                raise Broken(f"{path} line {number}: {error}") from None
    return records


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or one for each workload that was begun."""
    workloads = folder / "workloads.json"
    if not workloads.exists():
        return [folder]
    return [folder / name for name in document(workloads)["workloads"] if (folder / name).exists()]


# --- One request ------------------------------------------------------------------------------------------------------------------


def since(start: int, end: int) -> int:
    """Clocks of two processes may disagree by microseconds: no time is negative."""
    return max(end - start, 0)


def ttft(request: Record) -> list[int]:
    return [since(request["arrived_us"], at) for at in request["token_us"][:1]]


def gaps(request: Record) -> list[int]:
    return [since(one, next) for one, next in pairwise(request["token_us"])]


def is_done(request: Record) -> bool:
    return request["outcome"]["status"] == "done"


def first_pool(request: Record) -> str | None:
    return next((leg["role"] for leg in request["legs"] if leg["first_token_us"] is not None), None)


def begun_in_time(request: Record) -> bool:
    first = ttft(request)
    return is_done(request) and bool(first) and first[0] <= request["objectives"]["ttft_us_max"]


def is_within(request: Record) -> bool:
    return begun_in_time(request) and all(gap <= request["objectives"]["itl_us_max"] for gap in gaps(request))


def is_within_by_tpot(request: Record) -> bool:
    own = gaps(request)
    return begun_in_time(request) and sum(own) <= len(own) * request["objectives"]["itl_us_max"]


# --- Figures of an arm ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Arm:
    """What an arm recorded in the repetitions that count."""

    name: str
    repetitions: list[list[Record]]
    samples: list[Record]

    @property
    def requests(self) -> list[Record]:
        return [request for repetition in self.repetitions for request in repetition]


def mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def quantile(values: list, percent: int):
    """The nearest rank: the smallest value that so many percent of them do not exceed."""
    return sorted(values)[-(-percent * len(values) // 100) - 1] if values else None


def quantile_ms(times_us: list[int], percent: int) -> float | None:
    return quantile([us / 1e3 for us in times_us], percent)


def quantiles_ms(times_us: list[int], *percents: int) -> dict:
    return {f"p{percent}": quantile_ms(times_us, percent) for percent in percents}


def spans_us(repetitions: list[list[Record]]) -> list[int]:
    return [since(min(r["arrived_us"] for r in rs), max(r["ended_us"] for r in rs)) for rs in repetitions if rs]


def of_all(count: Callable[[Record], int]):
    """What the requests come to, per request."""
    return lambda repetitions: mean([count(request) for requests in repetitions for request in requests])


def per_second(count: Callable[[Record], int]):
    """What the requests come to, per second of the time from first arrival to last end."""
    def figure(repetitions: list[list[Record]]) -> float | None:
        return ratio(sum(count(r) for requests in repetitions for r in requests), sum(spans_us(repetitions)) / 1e6)

    return figure


def completion_ms(repetitions: list[list[Record]]) -> float | None:
    return mean([span / 1e3 for span in spans_us(repetitions)])


@dataclass(frozen=True)
class Metric:
    """A figure of an arm, which can be taken of all repetitions or of one."""

    key: str
    take: Callable[[list[list[Record]]], float | None]
    higher_is_better: bool = False
    is_share: bool = False
    # Of a quantile: what it is over, and at which percent.
    times: Callable[[Record], list[int]] | None = None
    percent: int = 0


def quantiles(key: str, times: Callable[[Record], list[int]], *percents: int) -> list[Metric]:
    def metric(percent: int) -> Metric:
        def take(repetitions):
            return quantile_ms([us for requests in repetitions for r in requests for us in times(r)], percent)

        return Metric(f"{key}.p{percent}", take, times=times, percent=percent)

    return [metric(percent) for percent in percents]


def ttft_of(group: Callable[[Record], bool]) -> Callable[[Record], list[int]]:
    return lambda request: ttft(request) if group(request) else []


TTFT_GROUPS: dict[str, Callable[[Record], bool]] = {
    "overall": lambda r: True,
    "short": lambda r: r["class"] == "short",
    "long": lambda r: r["class"] == "long",
    "prefill_pool": lambda r: first_pool(r) == "prefill",
    "decode_pool": lambda r: first_pool(r) == "decode",
}
WAVES = {wave: lambda r, wave=wave: r.get("wave") == wave for wave in ("background", "foreground")}

SHARE_WITHIN = Metric("goodput_share", of_all(is_within), higher_is_better=True, is_share=True)
METRICS = [
    Metric("completion_ms", completion_ms),
    Metric("throughput_rps", per_second(is_done), higher_is_better=True),
    Metric("output_tokens_per_s", per_second(lambda r: len(r["token_us"])), higher_is_better=True),
    SHARE_WITHIN,
    Metric("tpot_share", of_all(is_within_by_tpot), higher_is_better=True, is_share=True),
    Metric("goodput_rps", per_second(is_within), higher_is_better=True),
    Metric("tpot_goodput_rps", per_second(is_within_by_tpot), higher_is_better=True),
    Metric("longest_itl_ms_p99", lambda repetitions: quantile_ms([max(own) for rs in repetitions for r in rs if (own := gaps(r))], 99)),
    *(metric for name, group in TTFT_GROUPS.items() for metric in quantiles(f"ttft_ms.{name}", ttft_of(group), 50, 95)),
    *quantiles("itl_ms", gaps, 50, 95, 99),
]
WAVE_METRICS = {wave: quantiles(f"ttft_ms.{wave}", ttft_of(group), 50, 95) for wave, group in WAVES.items()}


def figures(arm: Arm, run: Record) -> dict:
    """An arm of `summary.json`; the keys are paths."""
    requests, engines = arm.requests, run["environment"]["engines"]
    metrics = METRICS + [m for wave, own in WAVE_METRICS.items() if any(map(WAVES[wave], requests)) for m in own]
    arm_figures = {
        "name": arm.name,
        "control": arm.name.endswith(CONTROL),
        "overloaded": is_overloaded(arm) if run.get("repetition", {}).get("lead_in_s", 0) > 0 else None,
        "requests": len(requests),
        **{metric.key: metric.take(arm.repetitions) for metric in metrics},
        "queue_depth_mean": {role: depth(arm.samples, role) for role in ("prefill", "decode", "shared")},
        "engines": [served for engine in engines if (served := engine_figures(engine, requests))],
        "handoffs": handoffs(requests),
        "live_migrations": live_migrations(requests),
        "errors": errors(requests),
    }
    return {**arm_figures, "routing": routing(arm, engines)} if "workload" in run else arm_figures


def engine_depth(samples: list[Record], engine: int) -> float | None:
    return mean([sample["waiting"] + sample["running"] for sample in samples if sample["engine"] == engine])


def depth(samples: list[Record], role: str) -> float | None:
    """Summed over the engines of the role, of each the mean while it had it."""
    own = [sample for sample in samples if sample["role"] == role]
    return sum(engine_depth(own, engine) for engine in {sample["engine"] for sample in own}) if own else None


def engine_figures(engine: Record, requests: list[Record]) -> dict | None:
    legs = [(request, leg) for request in requests for leg in request["legs"] if leg["engine"] == engine["id"]]
    if not legs:
        return None
    timed = [leg for _, leg in legs if leg["output_tokens"] > 1 and None not in (leg["first_token_us"], leg["ended_us"])]
    stays = defaultdict(list)
    for request, leg in legs:
        end = request["ended_us"] if leg["ended_us"] is None else leg["ended_us"]
        stays[request["repetition"]].append((leg["submitted_us"], end))
    busy_s = sum(map(covered_us, stays.values())) / 1e6
    return {
        "id": engine["id"],
        "device": engine["device"],
        "role": legs[0][1]["role"],
        "tpot_ms": mean([since(leg["first_token_us"], leg["ended_us"]) / 1e3 / (leg["output_tokens"] - 1) for leg in timed]),
        "tokens_per_busy_s": ratio(sum(leg["output_tokens"] for _, leg in legs), busy_s),
        "requests": len(legs),
    }


def covered_us(stays: list[tuple[int, int]]) -> int:
    """The time in at least one of these."""
    covered = seen = 0
    for start, end in sorted(stays):
        covered += since(max(start, seen), end)
        seen = max(seen, end)
    return covered


def moves(requests: list[Record]) -> list[Record]:
    return [handoff for request in requests for handoff in request["handoffs"]]


def times(moved: list[Record]) -> list[int]:
    return [since(move["started_us"], move["ended_us"]) for move in moved if move["ended_us"] is not None]


def copies(moved: list[Record]) -> list[int]:
    return [move["copy_us"] for move in moved if move["bytes"] > 0 and move["copy_us"] is not None]


def handoffs(requests: list[Record]) -> dict:
    moved = [move for move in moves(requests) if not move["recomputed"]]
    return {
        "count": len(moved),
        "recomputed": len(moves(requests)) - len(moved),
        "bytes": sum(move["bytes"] for move in moved),
        **{f"copy_ms_{name}": value for name, value in quantiles_ms(copies(moved), 50, 95).items()},
        **{f"total_ms_{name}": value for name, value in quantiles_ms(times(moved), 50, 95).items()},
    }


def live_migrations(requests: list[Record]) -> dict:
    def is_live(move: Record) -> bool:
        return move["kind"] == "live_migration" and not move["recomputed"]

    moved = list(filter(is_live, moves(requests)))
    stages = list(zip(*filter(None, map(stages_us, moved)))) or [[]] * 4
    migrated = [request for request in requests if any(map(is_live, request["handoffs"]))]
    return {
        "count": len(moved),
        "downtime_ms": quantiles_ms(times(moved), 50, 95),
        "copy_ms": quantiles_ms(copies(moved), 50, 95),
        "stages_ms_p50": {name: quantile_ms(stage, 50) for name, stage in zip(("submit", "copy", "step", "deliver"), stages)},
        "itl_ms_p50": quantile_ms([gap for request in migrated for gap in gaps(request)], 50),
    }


def stages_us(move: Record) -> list[int] | None:
    parts = [move[key] for key in ("copy_started_us", "copy_wait_us", "copy_us", "computed_us", "ended_us")]
    if move["bytes"] == 0 or None in parts:
        return None
    copy_started, waited, copy_took, computed, ended = parts
    moments = [move["started_us"], copy_started - waited, copy_started + copy_took, computed, ended]
    return [since(*pair) for pair in pairwise(moments)]


def errors(requests: list[Record]) -> list[str]:
    """How many requests of a class failed for the same cause. The causes' words are the program's, so these are not compared."""
    causes = Counter((r["class"], json.dumps(r["outcome"]["error"], sort_keys=True)) for r in requests if not is_done(r))
    return sorted(f"{count} {group}" for (group, _), count in causes.items())


def routing(arm: Arm, engines: list[Record]) -> dict:
    first_legs = [(request, request["legs"][0]) for request in arm.requests if request["legs"]]
    turns = {}
    for request, leg in first_legs:
        if turn := request.get("turn"):
            turns[request["repetition"], turn["session"], turn["index"]] = leg["engine"]
    before = {turn: (turn[0], turn[1], turn[2] - 1) for turn in turns}
    stayed = [turns[turn] == turns[before[turn]] for turn in turns if before[turn] in turns]
    moments = defaultdict(list)
    for sample in arm.samples:
        moments[sample["repetition"], sample["at_us"]].append(sample["waiting"] + sample["running"])

    def prompt_tokens(engine: int) -> int:
        return sum(request["prompt_tokens"] for request, leg in first_legs if leg["engine"] == engine)

    return {
        "cached_share": ratio(sum(leg["cached_tokens"] for _, leg in first_legs), sum(r["prompt_tokens"] for r, _ in first_legs)),
        "same_engine_share": mean(stayed),
        "queue_spread_mean": mean([max(depths) - min(depths) for depths in moments.values()]),
        "engines": [
            {"id": id, "queue_depth_mean": engine_depth(arm.samples, id), "prompt_tokens": prompt_tokens(id)}
            for id in (engine["id"] for engine in engines)
        ],
    }


# --- Student's t ------------------------------------------------------------------------------------------------------------------


def two_sided(t: float, freedom: int) -> float:
    """How often Student's t with these degrees of freedom is as far from 0 as `t`, or farther."""
    return beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22) where that converges fast."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    value = 1.0
    for m in range(200, 0, -1):
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1.0 + odd / (1.0 + even / value)
    return front / value


@cache
def student(share: float, freedom: int) -> float:
    """The value, over 0, that this share of Student's t is below."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 2 * (1 - share):
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if two_sided(middle, freedom) > 2 * (1 - share) else (low, middle)
    return middle


@dataclass
class Estimate:
    """The mean of one value per repetition, and the standard error of that mean."""

    values: list[float]

    def __post_init__(self):
        count = len(self.values)
        self.freedom = count - 1
        self.mean = sum(self.values) / count
        self.error = math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / self.freedom / count)

    def interval(self, confidence: float) -> tuple[float, float]:
        reach = student(0.5 + confidence / 2, self.freedom) * self.error
        return self.mean - reach, self.mean + reach

    def p_value(self) -> float:
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return two_sided(self.mean / self.error, self.freedom)

    def visible(self) -> float:
        return (student(1 - ERROR / 2, self.freedom) + student(0.8, self.freedom)) * self.error


def is_overloaded(arm: Arm) -> bool | None:
    """Whether the TTFT of short prompts, or the backlog, rises in the course of the repetitions."""
    ttfts, backlogs = [], []
    for requests in arm.repetitions:
        first, last = min(r["arrived_us"] for r in requests), max(r["arrived_us"] for r in requests)
        samples = [s for s in arm.samples if s["repetition"] == requests[0]["repetition"] and first <= s["at_us"] <= last]
        middle = first + (last - first) // 2
        ttfts.append(rise(middle, [(r["arrived_us"], us) for r in requests if r["class"] == "short" for us in ttft(r)]))
        backlogs.append(rise(middle, [(s["at_us"], s["waiting"] + s["running"]) for s in samples]))
    known = [values for values in ([rise for rise in rises if rise is not None] for rises in (ttfts, backlogs))]
    estimates = [Estimate(values) for values in known if len(values) >= REPETITIONS_MIN]
    return any(e.mean > math.log(1.25) and e.p_value() < 0.01 for e in estimates) if estimates else None


def rise(middle: int, values: list[tuple[int, float]]) -> float | None:
    """The logarithm of the mean after a moment over the mean before."""
    early = mean([value for at, value in values if at <= middle])
    late = mean([value for at, value in values if at > middle])
    return math.log(late / early) if early and late else None


# --- Verdicts ---------------------------------------------------------------------------------------------------------------------

CONTROL = "_control"
BASELINES = ["shared_tuned", "shared_least_load", "least_load", "shared_round_robin", "round_robin"]  # The strongest first.
TRIED = ["dual_pool", "auto", "dynamic_router"]

OF_WAVES = ["ttft_ms.foreground.p50", "ttft_ms.foreground.p95"]
OF_SATURATION = ["throughput_rps", "completion_ms"]
COMPARED = [
    *("ttft_ms.short.p95", "ttft_ms.overall.p50", "ttft_ms.overall.p95", "ttft_ms.long.p50", "ttft_ms.long.p95"),
    *("itl_ms.p50", "itl_ms.p95", "itl_ms.p99", "goodput_share"),
]
PLANNED = ["goodput_share", "ttft_ms.short.p95", "itl_ms.p99"]
BY_KEY = {metric.key: metric for metric in METRICS + WAVE_METRICS["foreground"]}

ERROR = 0.05
# The share of it that is spent after so many repetitions.
SPENT = [(6, 0.10), (9, 0.25), (12, 0.45), (18, 0.65), (24, 0.80)]
REPETITIONS_MIN = 6
BEYOND_MIN, BEYOND_REPETITIONS_MIN = 10, 3
MARGIN_RATIO, MARGIN_SHARE = math.log(1.1), 0.03


class Comparison:
    """A candidate against a baseline on one metric, while it is decided."""

    def __init__(self, metric: Metric, baseline: Arm, candidate: Arm, planned: bool):
        self.metric, self.baseline, self.candidate, self.planned = metric, baseline, candidate, planned
        self.differences = [self.difference(*pair) for pair in zip(baseline.repetitions, candidate.repetitions)]
        self.decided = None
        self.barred = self.bar()

    def difference(self, *sides: list[Record]) -> float | None:
        baseline, candidate = (self.metric.take([side]) for side in sides)
        if baseline is None or candidate is None:
            return None
        if self.metric.is_share:
            return candidate - baseline
        if baseline == candidate:
            return 0.0
        return math.log(candidate / baseline) if baseline and candidate else None

    def bar(self) -> str | None:
        """What keeps it from ever being decided."""
        sides = [self.baseline, self.candidate]
        failed = not all(is_done(request) for side in sides for request in side.requests)
        if not self.measured() or (failed and self.metric is not SHARE_WITHIN):
            return "not_measured"
        if len(self.measured()) < REPETITIONS_MIN or not all(enough_beyond(self.metric, side) for side in sides):
            return "too_few"
        return None

    def measured(self, repetitions: int | None = None) -> list[float]:
        return [difference for difference in self.differences[:repetitions] if difference is not None]

    def decisive(self, repetitions: int | None = None) -> Estimate | None:
        """What may decide it after so many repetitions."""
        values = self.measured(repetitions)
        return Estimate(values) if self.barred is None and len(values) >= REPETITIONS_MIN else None

    def decide(self, estimate: Estimate, different: bool):
        low, high = estimate.interval(0.90)
        margin = MARGIN_SHARE if self.metric.is_share else MARGIN_RATIO
        if different:
            self.decided = "better" if (estimate.mean > 0) == self.metric.higher_is_better else "worse"
        elif -margin < low and high < margin:
            self.decided = "equivalent"

    def summary(self) -> dict:
        values = self.measured()
        written = (lambda value: value) if self.metric.is_share else math.exp
        known = {}
        if len(values) >= 2 and self.barred != "not_measured":
            estimate = Estimate(values)
            low, high = estimate.interval(0.95)
            known = {
                "difference" if self.metric.is_share else "ratio": written(estimate.mean),
                "ci_low": written(low),
                "ci_high": written(high),
                "p_value": estimate.p_value(),
                "visible": written(estimate.visible()),
            }
        return {
            "baseline": self.baseline.name,
            "candidate": self.candidate.name,
            "metric": self.metric.key,
            "planned": self.planned,
            "repetitions": len(values),
            **dict.fromkeys(("ratio", "difference", "ci_low", "ci_high", "p_value", "visible")),
            **known,
            "verdict": self.barred or self.decided or "undecided",
        }


def enough_beyond(metric: Metric, arm: Arm) -> bool:
    """Whether enough lies beyond a quantile to tell it by: requests, or engine steps for gaps between tokens."""
    if metric.times is None:
        return True
    percent, values, steps, repetitions = metric.percent, 0, 0, 0
    for requests in arm.repetitions:
        times = [us for request in requests for us in metric.times(request)]
        if not times:
            continue
        repetitions += 1
        values += len(times)
        longest = quantile(times, percent)
        # Tokens that come at one moment come from one step.
        ends = {end for r in requests for start, end in pairwise(r["token_us"]) if since(start, end) >= longest}
        steps += len(ends)
    # Half of a request and more is one.
    beyond = (values * (100 - percent) + 50) // 100
    of_steps = metric.times is not gaps or steps >= BEYOND_MIN
    return beyond >= BEYOND_MIN and of_steps and repetitions >= BEYOND_REPETITIONS_MIN


def comparisons(arms: list[Arm], run: Record) -> list[Comparison]:
    if run["settings"]["run"]["exact"]:
        return []
    by_name = {arm.name: arm for arm in arms}
    no_control = [arm for arm in arms if not arm.name.endswith(CONTROL)]
    pairs = [(base, arm) for arm in no_control if arm.name not in BASELINES for base in no_control if base.name in BASELINES]
    controls = [(by_name.get(arm.name.removesuffix(CONTROL)), arm) for arm in arms if arm not in no_control]
    strongest = next((by_name[name] for name in BASELINES if name in by_name), None)
    against = [pair for pair in pairs if pair[0] is strongest]
    planned = [pair for pair in against if pair[1].name in TRIED] or against
    in_waves = any(metric.take(arm.repetitions) is not None for arm in arms for metric in WAVE_METRICS["foreground"])
    keys = (OF_WAVES if in_waves else []) + COMPARED + (OF_SATURATION if is_saturated(run) else [])
    tests = [
        Comparison(BY_KEY[key], *pair, pair in planned and key in PLANNED)
        for pair in [*pairs, *(pair for pair in controls if pair[0])]
        for key in keys
    ]
    others = [pair for pair in combinations(no_control, 2) if pair not in pairs and pair[::-1] not in pairs]
    tests += [Comparison(SHARE_WITHIN, *pair, False) for pair in others]
    decide_planned([test for test in tests if test.planned], run["looks"])
    decide_others([test for test in tests if not test.planned])
    return tests


def is_saturated(run: Record) -> bool:
    rate, saturation = run["rate_rps"], run["saturation_rps"]
    if rate is None:
        return "workload" not in run
    return saturation is not None and rate >= saturation


def spent(repetitions: int) -> float:
    """The share of runs in which an error may have been made after so many repetitions."""
    last, most = SPENT[-1]
    if repetitions >= last:
        return ERROR * (1 - (1 - most) * last / repetitions)
    for (start, low), (end, high) in pairwise(SPENT):
        if start <= repetitions < end:
            return ERROR * (low + (high - low) * (repetitions - start) / (end - start))
    return 0.0


def looks_of(repetitions: int) -> list[int]:
    """After how many repetitions a run looks that ends after these."""
    looks, scheduled = [], [number for number, _ in SPENT]
    while repetitions >= REPETITIONS_MIN and (looks or [0])[-1] < repetitions:
        looks.append(min(scheduled.pop(0) if scheduled else -(-looks[-1] * 4 // 3), repetitions))
    return looks


def decide_planned(tests: list[Comparison], looks: list[int]):
    before = 0.0
    for look in looks:
        allowed, before = spent(look) - before, spent(look)
        estimates = [test.decisive(look) for test in tests]
        different = holm([estimate.p_value() if estimate else 1.0 for estimate in estimates], allowed)
        for test, estimate, is_different in zip(tests, estimates, different):
            if estimate and not test.decided:
                test.decide(estimate, is_different)


def decide_others(tests: list[Comparison]):
    tests = [test for test in tests if test.decisive()]
    different = benjamini_hochberg([test.decisive().p_value() for test in tests])
    for test, is_different in zip(tests, different):
        test.decide(test.decisive(), is_different)


def holm(p_values: list[float], error: float) -> list[bool]:
    limit = -1.0
    for rank, p in enumerate(sorted(p_values)):
        if p > error / (len(p_values) - rank):
            break
        limit = p
    return [p <= limit for p in p_values]


def benjamini_hochberg(p_values: list[float]) -> list[bool]:
    passed = [p for rank, p in enumerate(sorted(p_values), 1) if p <= ERROR * rank / len(p_values)]
    return [p <= max(passed, default=-1.0) for p in p_values]


# --- The summary ------------------------------------------------------------------------------------------------------------------


def recomputed(run: Record, requests: list[Record], samples: list[Record]) -> dict:
    """`summary.json`; the keys are paths."""
    arms = arms_of(run, requests, samples)
    settings, workload = run["settings"], run.get("workload")
    tests = [test.summary() for test in comparisons(arms, run)]
    served = workload or {"name": settings["workload"]["mix"], "arrivals": settings["workload"]["arrivals"]}
    is_exact = settings["run"]["exact"]
    expected = run.get("expected")
    return {
        **{key: run[key] for key in ("schema_version", "target", "environment", "rate_rps", "held_blocks_after")},
        "mix": served["name"],
        "arrivals": "one_by_one" if is_exact else served["arrivals"],
        "exact": is_exact,
        "repetitions": len(counted(run, requests)),
        "objectives": run.get("objectives") or objectives(settings["objectives"]),
        "arms": [figures(arm, run) for arm in arms],
        "comparisons": tests,
        "identical_requests": identical(arms),
        **({"drained": run["drained"]} if run.get("drained") else {}),
        **({"expectations": expectations(expected, tests)} if expected else {}),
    }


def counted(run: Record, requests: list[Record]) -> list[int]:
    """The repetitions that count: those that every arm finished and nothing disturbed."""
    finished = defaultdict(set)
    for request in requests:
        finished[request["repetition"]].add(request["arm"])
    signals = run.get("disturbance", {}).get("repetitions", [])
    disturbed = {signal["repetition"] for signal in signals if signal["disturbed_by"]}
    arms = {arm["name"] for arm in run["arms"]}
    return [number for number in sorted(finished) if arms <= finished[number] and number not in disturbed]


def arms_of(run: Record, requests: list[Record], samples: list[Record]) -> list[Arm]:
    numbers = counted(run, requests)
    by_run = defaultdict(list)
    for request in requests:
        by_run[request["arm"], request["repetition"]].append(request)

    def arm(name: str) -> Arm:
        own = [s for s in samples if "engine" in s and s["arm"] == name and s["repetition"] in numbers]
        return Arm(name, [by_run[name, number] for number in numbers], own)

    return [arm(of["name"]) for of in run["arms"]]


def objectives(settings: Record) -> dict:
    """Those of the settings. One that is neither given nor measured is a day."""
    def first(*keys: str) -> float:
        return next((settings[key] for key in keys if settings[key] > 0), 86_400_000.0)

    return {
        "ttft_short_ms": first("ttft_ms", "ttft_short_ms"),
        "ttft_long_ms": first("ttft_ms", "ttft_long_ms"),
        "itl_ms": first("itl_ms"),
    }


def identical(arms: list[Arm]) -> dict:
    by_name = {arm.name: arm for arm in arms}
    reference = by_name.get("one_engine") or by_name.get("shared_tuned") or next(iter(arms), None)
    if reference is None:
        return {}
    expected = {(request["repetition"], request["index"]): request for request in reference.requests}
    shares = {}
    for arm in arms:
        pairs = [(r, expected.get((r["repetition"], r["index"]))) for r in arm.requests]
        pairs = [(request, other) for request, other in pairs if other]
        done = [(request, other) for request, other in pairs if is_done(request) and is_done(other)]
        if pairs and arm is not reference:
            shares[arm.name] = {"same": sum(one["tokens"] == other["tokens"] for one, other in done), "compared": len(done)}
    return shares


def expectations(expected: Record, tests: list[dict]) -> dict:
    now = {(test["baseline"], test["candidate"], test["metric"]): test for test in tests if test["ratio"] is not None}
    both = [(now.get((was["baseline"], was["candidate"], was["metric"])), was) for was in expected["ratios"]]
    both = [(test, was) for test, was in both if test]

    def is_behind(test: dict, was: Record) -> bool:
        if BY_KEY[test["metric"]].higher_is_better:
            return test["ratio"] < was["ci_low"] and test["ci_high"] < was["ratio"]
        return test["ratio"] > was["ci_high"] and test["ci_low"] > was["ratio"]

    behind = [{**was, "accepted": was["ratio"], "ratio": test["ratio"]} for test, was in both if is_behind(test, was)]
    return {"file": expected["file"], "run": expected["run"], "compared": len(both), "behind": behind}


# --- Comparing the two ------------------------------------------------------------------------------------------------------------

# How an element of these lists is found again, and what it is called.
NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "arms": ("arm {name}", ("name",)),
    "engines": ("engine {id}", ("id",)),
    "comparisons": ("comparison {candidate} to {baseline} {metric}", ("candidate", "baseline", "metric")),
    "behind": ("behind {candidate} to {baseline} {metric}", ("candidate", "baseline", "metric")),
}


def leaves(value: dict, where: str = ""):
    """Every value of a summary, with the words by which people find it: `arm dual_pool ttft_ms.short.p95`."""
    for key, inner in value.items():
        path = f"{where}{key}"
        if key in NAMED and isinstance(inner, list):
            title, names = NAMED[key]
            for element in inner:
                label = title.format(**{name: element[name] for name in names})
                rest = {name: value for name, value in element.items() if name not in names}
                yield from leaves(rest, " ".join([*where.rstrip(".").split(), label, ""]))
        elif isinstance(inner, dict) and inner and key != "environment":
            yield from leaves(inner, f"{path}.")
        else:
            yield path, inner


def by_words(summary: dict) -> dict:
    found = list(leaves(summary))
    twice = [where for where, count in Counter(where for where, _ in found).items() if count > 1]
    if twice:
        raise Broken(f"{twice[0]} is there twice")
    return dict(found)


def agree(one, other) -> bool:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (one, other)):
        return one == other
    return math.isclose(one, other, rel_tol=RELATIVE) or max(abs(one), abs(other)) < ABSOLUTE


def with_error_counts(arms: list[Record]) -> list[Record]:
    """Arms of a summary that have their errors as `errors` above puts them."""
    def counts(arm: Record) -> list[str]:
        return sorted(f"{error['count']} {error['message'].split(' ')[0]}" for error in arm["errors"])

    return [{**arm, "errors": counts(arm)} for arm in arms]


def check(folder: Path) -> tuple[int, int, list[str]]:
    """The number of figures and of verdicts that agree, and the differences."""
    run, summary = document(folder / "run.json"), document(folder / "summary.json")
    if run["schema_version"] != SCHEMA_VERSION:
        raise Broken(f"{folder / 'run.json'} has schema version {run['schema_version']}; this script knows {SCHEMA_VERSION} alone")
    requests, samples = lines(folder / "requests.jsonl"), lines(folder / "samples.jsonl")
    try:
        own = by_words(recomputed(run, requests, samples))
        written = by_words({**summary, "arms": with_error_counts(summary["arms"])})
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise Broken(f"{folder}: a value is not what docs/schemas allows: {error}") from None
    differences = []
    # A run that was gone on with looked at its first end, too.
    looks = looks_of(own["repetitions"])
    if run["looks"] != looks and not run.get("resumed"):
        differences.append(f"looks: run.json {run['looks']}, recomputed {looks}")
    for where in sorted(own.keys() | written):
        if where not in written:
            differences.append(f"{where}: recomputed {shown(own[where])}, and the summary lacks it")
        elif where not in own:
            differences.append(f"{where}: summary {shown(written[where])}, and this script does not know it")
        elif not agree(written[where], own[where]):
            differences.append(f"{where}: summary {shown(written[where])}, recomputed {shown(own[where])}")
    alike = [where for where in own.keys() & written if agree(written[where], own[where])]
    verdicts = sum(where.endswith(" verdict") for where in alike)
    return len(alike) - verdicts, verdicts, differences


def shown(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run, of one workload or several")
    figures = verdicts = failed = 0
    for given in parser.parse_args().run:
        try:
            folders = runs_in(given)
        except Broken as error:
            print(error)
            failed += 1
            continue
        for folder in folders:
            try:
                own_figures, own_verdicts, differences = check(folder)
            except Broken as error:
                own_figures, own_verdicts, differences = 0, 0, [str(error)]
            figures, verdicts, failed = figures + own_figures, verdicts + own_verdicts, failed + len(differences)
            for difference in differences:
                print(f"{folder}: {difference}" if len(folders) > 1 else difference)
    print(f"{figures} figures and {verdicts} verdicts agree" + (f"; {failed} differ or are missing" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
