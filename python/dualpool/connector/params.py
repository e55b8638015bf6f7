"""What a request says about its KV, in vLLM's `kv_transfer_params`:

    {"dualpool_leg": "7.0",            # the leg's name, which no other leg of this run has
     "dualpool_hold": True,            # keep the blocks when the leg ends, until the broker releases them
     "dualpool_kv_source": {"engine": 0, "leg": "6.0", "tokens": 1024}}  # where the prompt's KV can be copied from
"""

import logging
from dataclasses import dataclass
from typing import Any

from dualpool.words import HOLD, KV_SOURCE, LEG

logger = logging.getLogger("vllm.dualpool")


@dataclass(frozen=True)
class KvSource:
    """Blocks that another engine holds: the leg that computed them, and how many tokens of the prompt they cover."""

    engine: int
    leg: str
    tokens: int

    def wire(self) -> dict[str, Any]:
        return {"engine": self.engine, "leg": self.leg, "tokens": self.tokens}


@dataclass(frozen=True)
class Leg:
    name: str
    hold: bool
    source: KvSource | None


def leg_of(params: dict[str, Any] | None) -> Leg | None:
    """The leg that these params describe; None for a request that is not one of ours.

    An exception in the scheduler ends the engine for every request, so malformed params are logged and ignored: the
    request then runs like any other.
    """
    if not params or LEG not in params:
        return None
    try:
        found = params.get(KV_SOURCE)
        source = None if found is None else KvSource(int(found["engine"]), str(found["leg"]), int(found["tokens"]))
        return Leg(str(params[LEG]), bool(params.get(HOLD, False)), source)
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("dualpool: ignoring malformed kv_transfer_params %r: %r", params, error)
        return None
