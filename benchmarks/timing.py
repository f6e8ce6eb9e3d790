"""Compare the speed of peers on a machine that others use, too."""

import time

import numpy


def alternate(peers, rounds, seconds):
    """{name: [images a second of each round]} of `peers`, a dictionary from names to functions.

    A function does one unit of work, waits until it is done, and returns the number of images. Each is first run for
    `seconds` to warm up. Then in each round every peer runs for about `seconds`, once at least; every other round goes
    through them backwards, so that a machine that becomes slower or faster does so for all alike.
    """
    names = list(peers)
    for name in names:
        _rate(peers[name], seconds)
    rates = {name: [] for name in names}
    for index in range(rounds):
        for name in reversed(names) if index % 2 else names:
            rates[name].append(_rate(peers[name], seconds))
    return rates


def _rate(work, seconds):
    images, started = 0, time.perf_counter()
    while True:
        images += work()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return images / elapsed


def summary(rates, baseline):
    """{name: {"rate", "ratio", "low", "high"}} of what `alternate` gave.

    "rate" is the median of the rounds. "ratio" is the median of the rounds' ratios to the peer `baseline` in the same
    round, and "low" and "high" are their quartiles: what slows a whole round down cancels out.
    """
    found = {}
    for name, own in rates.items():
        low, ratio, high = numpy.percentile(numpy.divide(own, rates[baseline]), [25, 50, 75]).tolist()
        found[name] = {"rate": float(numpy.median(own)), "ratio": ratio, "low": low, "high": high}
    return found


def row(setting, measure, found):
    """One peer of `summary` as a row of the table."""
    values = {name: found[name] for name in ("ratio", "low", "high")}
    return dict(values, setting=setting, measure=measure, value=found["rate"], unit="images/s")
