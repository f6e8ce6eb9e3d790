"""A prefix for the keys of one start of the processes, in a store that also holds the keys of earlier starts.

torchrun keeps one store over its restarts: without a prefix for each start, a process could read the address of a
process of an earlier start, and fail to connect.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

POLL_SECONDS = 0.05


def agree_on_prefix(store: Any, rank: int, world_size: int, timeout_s: float) -> str:
    """Return a prefix that exactly the `world_size` processes of this start agree on; RuntimeError after `timeout_s`.

    Each process writes a token. Rank 0 proposes a prefix for the tokens that it reads, until every process has
    confirmed that its own token is among them; then it marks the prefix as final.
    """
    deadline = time.monotonic() + timeout_s
    token = uuid.uuid4().hex
    store.set("rendezvous/token/%d" % rank, token)
    if rank == 0:
        return _propose(store, world_size, deadline)
    while True:
        proposal = json.loads(_text(store.get("rendezvous/proposal")))
        if proposal["tokens"][rank : rank + 1] == [token]:
            if proposal["is_final"]:
                return proposal["prefix"]
            store.set("rendezvous/confirmed/%d" % rank, proposal["prefix"])
        _wait(deadline)


def _propose(store: Any, world_size: int, deadline: float) -> str:
    """Return the prefix that all other ranks have confirmed; make a new proposal whenever a token changes."""
    tokens: list[str] = []
    prefix = ""
    while True:
        seen = [_text(store.get("rendezvous/token/%d" % rank)) for rank in range(world_size)]
        if seen != tokens:
            tokens, prefix = seen, uuid.uuid4().hex
            _publish(store, tokens, prefix, is_final=False)
            for rank in range(1, world_size):
                store.set("rendezvous/confirmed/%d" % rank, "")
        confirmed = [_text(store.get("rendezvous/confirmed/%d" % rank)) for rank in range(1, world_size)]
        if all(answer == prefix for answer in confirmed):
            _publish(store, tokens, prefix, is_final=True)
            return prefix
        _wait(deadline)


def _publish(store: Any, tokens: list[str], prefix: str, is_final: bool) -> None:
    store.set("rendezvous/proposal", json.dumps({"tokens": tokens, "prefix": prefix, "is_final": is_final}))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError("timed out: some processes of this start are missing")
    time.sleep(POLL_SECONDS)
