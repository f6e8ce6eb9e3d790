"""Compare the speed of peers on a machine that others use, too."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

import numpy

from benchmarks.report import Row


@dataclass
class Rate:
    """The speed of a peer, and its ratio to the baseline's."""

    images_per_second: float  # the median of the rounds
    ratio: float  # the median of the rounds' ratios
    low: float  # their first quartile
    high: float  # their third quartile


def alternate(peers: dict[str, Callable[[], int]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the images a second of each round for each of `peers`.

    A peer is a function that does one unit of work, waits until it is done, and returns the number of images. Each peer
    first warms up for `seconds`. Then every peer runs for about `seconds`, at least once, in each round. Every other
    round is in reverse order, so that a machine that becomes slower or faster affects all peers alike.
    """
    names = list(peers)
    for name in names:
        _rate(peers[name], seconds)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in reversed(names) if index % 2 else names:
            rates[name].append(_rate(peers[name], seconds))
    return rates


def _rate(work: Callable[[], int], seconds: float) -> float:
    images, started = 0, time.perf_counter()
    while True:
        images += work()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return images / elapsed


def summarize(rates: dict[str, list[float]], baseline: str) -> dict[str, Rate]:
    """Return the Rate of each peer of `alternate`.

    Ratios are to the peer `baseline` in the same round, so that what slows a whole round down cancels out.
    """
    found = {}
    for name, own in rates.items():
        low, ratio, high = numpy.percentile(numpy.divide(own, rates[baseline]), [25, 50, 75]).tolist()
        found[name] = Rate(float(numpy.median(own)), ratio, low, high)
    return found


def to_row(setting: str, measure: str, rate: Rate) -> Row:
    """Return a row of the table for the Rate of a peer."""
    return Row(setting, measure, rate.images_per_second, "images/s", rate.ratio, rate.low, rate.high)
