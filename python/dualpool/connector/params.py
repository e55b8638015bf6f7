"""What a request says about its KV, in vLLM's `kv_transfer_params`:

    {"dualpool_leg": "7.0",            # the leg's name, unique for the controller's life
     "dualpool_hold": True,            # keep the blocks when the leg ends, until the controller releases them
     "dualpool_load": {"engine": 0, "leg": "6.0", "tokens": 1024}}  # where the prompt's KV can be copied from
"""

import logging
from dataclasses import dataclass
from typing import Any

from dualpool.words import HOLD, LEG

logger = logging.getLogger("vllm.dualpool")


@dataclass(frozen=True)
class Source:
    """Blocks another engine holds: the leg that computed them, and how many tokens of the prompt they cover."""

    engine: int
    leg: str
    tokens: int

    def wire(self) -> dict[str, Any]:
        return {"engine": self.engine, "leg": self.leg, "tokens": self.tokens}


@dataclass(frozen=True)
class Leg:
    name: str
    hold: bool
    load: Source | None


def leg_of(params: dict[str, Any] | None) -> Leg | None:
    """The leg that these params describe; None for a request that is none of ours.

    An exception in the scheduler ends the engine for every request, so malformed params are logged and ignored: the
    request then runs like any other.
    """
    if not params or LEG not in params:
        return None
    try:
        load = params.get("dualpool_load")
        source = None if load is None else Source(int(load["engine"]), str(load["leg"]), int(load["tokens"]))
        return Leg(str(params[LEG]), bool(params.get(HOLD, False)), source)
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("dualpool: ignoring malformed kv_transfer_params %r: %r", params, error)
        return None
