"""Rates of several settings, measured in turn so that a shared machine's ups and downs hit all of them alike."""

import statistics
import time


def alternate(peers, rounds, seconds, clock=time.perf_counter):
    """{name: [images a second in each round]} of `peers`, {name: function that does some work and returns its images}.

    Each is called once to warm up. In a round each works for about `seconds`, at least once; every other round goes
    through them backwards. A function waits for its device itself.
    """
    for work in peers.values():
        work()
    rates = {name: [] for name in peers}
    for number in range(rounds):
        for name in sorted(peers, key=list(peers).index, reverse=number % 2 == 1):
            rates[name].append(_rate(peers[name], seconds, clock))
    return rates


def _rate(work, seconds, clock):
    images, started = 0, clock()
    while True:
        images += work()
        elapsed = clock() - started
        if elapsed >= seconds:
            return images / elapsed


def summary(rates, baseline):
    """{name: {"value", "ratio", "low", "high"}}: the median rate, and the median and quartiles of its ratios to the
    `baseline` of the same round."""
    found = {}
    for name, own in rates.items():
        ratios = [rate / base for rate, base in zip(own, rates[baseline])]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        found[name] = {"value": statistics.median(own), "ratio": statistics.median(ratios), "low": low, "high": high}
    return found
