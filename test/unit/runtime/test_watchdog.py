"""Which rank the watchdog blames when nothing moves."""

import pytest

from runtime.watchdog import NO_ANSWER, diagnose


def readings(*rows):
    """Return (before, now) of rows (heartbeats before, heartbeats now, position)."""
    return [(old, (0, 0, 0)) for old, _, _ in rows], [(new, place) for _, new, place in rows]


@pytest.mark.parametrize(
    "rows, own, culprits, text",
    [
        ([(1, 2, (3, 7, 2)), (1, 2, (3, 7, 1)), (1, 2, (3, 7, 2))], 0, [1], "rank 1 hangs at epoch 3, step 7"),
        ([(1, 2, (3, 7, 2)), (1, 2, (3, 6, 9)), (1, 2, (2, 9, 9))], 0, [1, 2], "ranks 1, 2 hang at epoch 3, step 6"),
        ([(1, 2, (3, 7, 1)), (1, 2, (3, 7, 2))], 0, [0], "rank 0 hangs at epoch 3, step 7"),
        ([(1, 2, (3, 7, 2)), (5, 5, (3, 7, 2))], 0, [1], "rank 1 does not respond"),
        ([(1, 1, (3, 7, 2)), (5, 5, (3, 7, 2)), (4, 4, (3, 7, 2))], 0, [1, 2], "ranks 1, 2 do not respond"),
        ([(1, 2, (3, 7, 2)), (5, 6, (3, 7, 2))], 0, [], "all ranks wait at epoch 3, step 7"),
        ([(1, 2, (-1, 0, 1)), (5, 6, (-1, 0, 0))], 0, [1], "rank 1 hangs at the start"),
    ],
)
def test_the_rank_to_blame(rows, own, culprits, text):
    named, reported = diagnose(*readings(*rows), own_rank=own)
    assert named == culprits and reported.startswith(text)


def test_rank_0_serves_the_store():
    for before, now in ((NO_ANSWER, NO_ANSWER), ([(1, (0, 0, 0))], NO_ANSWER)):
        assert diagnose(before, now, 1) == ([0], "rank 0 does not respond (stopped or unreachable)")
    assert diagnose([(1, (0, 0, 0))], False, 1) == ([], "")  # it has ended, and has reported the cause
