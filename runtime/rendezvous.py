"""Agreement of processes that were started together, by way of a store in which those of an earlier start left keys.

torchrun keeps one store over its restarts: without a name of its own for each start a process could read where one of
the start before had listened, and connect to nobody.
"""

import json
import time
import uuid

POLL_SECONDS = 0.05


def agree_on_prefix(store, rank, world_size, timeout_s):
    """A name that exactly the `world_size` processes of this start agree on; RuntimeError after `timeout_s`.

    Each leaves a token. The first publishes the tokens that it sees, until every process confirms to have found its own
    among them; then it says go.
    """
    deadline = time.monotonic() + timeout_s
    token = uuid.uuid4().hex
    store.set("round/token/%d" % rank, token)
    if rank == 0:
        return _lead(store, world_size, deadline)
    while True:
        current = json.loads(_text(store.get("round/current")))
        if current["tokens"][rank : rank + 1] == [token]:
            if current["go"]:
                return current["name"]
            store.set("round/confirmed/%d" % rank, current["name"])
        _wait(deadline)


def _lead(store, world_size, deadline):
    tokens, name = None, None
    while True:
        seen = [_text(store.get("round/token/%d" % rank)) for rank in range(world_size)]
        if seen != tokens:
            tokens, name = seen, uuid.uuid4().hex
            store.set("round/current", json.dumps({"tokens": tokens, "name": name, "go": False}))
            for rank in range(1, world_size):
                store.set("round/confirmed/%d" % rank, "")
        confirmed = [_text(store.get("round/confirmed/%d" % rank)) for rank in range(1, world_size)]
        if all(answer == name for answer in confirmed):
            store.set("round/current", json.dumps({"tokens": tokens, "name": name, "go": True}))
            return name
        _wait(deadline)


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def _wait(deadline):
    if time.monotonic() > deadline:
        raise RuntimeError("timed out: not all processes of this start have come")
    time.sleep(POLL_SECONDS)
