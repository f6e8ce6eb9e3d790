"""Processes of one start agree on a prefix in a store that holds the keys of an earlier start."""

import threading
import time

import pytest

from runtime.rendezvous import agree_on_prefix


class Store:
    """A store like torch's: `get` waits for a key."""

    def __init__(self):
        self.values = {}

    def set(self, key, value):
        self.values[key] = value.encode()

    def get(self, key):
        deadline = time.monotonic() + 5
        while key not in self.values:
            if time.monotonic() > deadline:
                raise RuntimeError("timed out")
            time.sleep(0.01)
        return self.values[key]


def start(store, ranks, delays, world_size=3):
    names, threads = {}, []

    def join(rank, delay):
        time.sleep(delay)
        names[rank] = agree_on_prefix(store, rank, world_size, 10)

    for rank, delay in zip(ranks, delays):
        threads.append(threading.Thread(target=join, args=(rank, delay)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return names


@pytest.mark.parametrize("delays", [(0, 0, 0), (0, 0.3, 0.5), (0.4, 0, 0), (0.2, 0.4, 0)])
def test_every_start_has_its_own_prefix(delays):
    store, names = Store(), set()
    for _ in range(3):
        prefixes = start(store, range(3), delays)
        assert len(prefixes) == 3 and len(set(prefixes.values())) == 1
        names |= set(prefixes.values())
    assert len(names) == 3


def test_a_process_that_does_not_come_is_not_replaced_by_an_earlier_one():
    store = Store()
    start(store, range(3), (0, 0, 0))
    for missing in range(3):
        others = [rank for rank in range(3) if rank != missing]
        helper = threading.Thread(target=_ignore, args=(store, others[1]))
        helper.start()
        with pytest.raises(RuntimeError, match="timed out"):
            agree_on_prefix(store, others[0], 3, 0.5)
        helper.join()


def _ignore(store, rank):
    try:
        agree_on_prefix(store, rank, 3, 0.5)
    except RuntimeError:
        pass
