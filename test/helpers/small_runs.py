"""Runs of a small network: stopped, resumed, and the weights and rows that they write."""

import json
import os

import torch

from checkpoints import loading, store
from runtime.amp import Precision


class Stop(Exception):
    """Ends a run in the midst of it."""


def die_in(small, monkeypatch, stop_at, *words):
    """Start a run and have it die inside its `stop_at`-th step."""
    taken, step = [], Precision.step

    def counted(*arguments):
        taken.append(1)
        if len(taken) == stop_at:
            raise Stop
        step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Precision, "step", counted)
        assert small(*words, "--checkpoint-steps=1") == 1


def cut_off(small, monkeypatch, stop_at, *words):
    """Have a run die inside its `stop_at`-th step, and resume it by the same command."""
    die_in(small, monkeypatch, stop_at, *words)
    torch.manual_seed(12345)
    assert small(*words) == 0


def weights(folder, name=store.LATEST):
    """Return the weights and the EMA weights of a checkpoint in `folder`."""
    loaded = loading.load(os.path.join(str(folder), name))
    return {part: loaded[part] for part in ("model", "model_ema")}


def assert_equal_weights(got, want):
    """Compare two results of `weights`, bit by bit."""
    for part in want:
        assert list(got[part]) == list(want[part])
        for name in want[part]:
            assert torch.equal(got[part][name], want[part][name]), (part, name)


def assert_same_weights(first, second, name=store.LATEST):
    """Compare the weights and the EMA weights in two folders, bit by bit."""
    assert_equal_weights(weights(first, name), weights(second, name))


def is_equal(first, second):
    """Return whether the tensors of `first` are equal to those of `second`."""
    return all(torch.equal(value, second[name]) for name, value in first.items())


def log_of(folder):
    """Return the rows of a run's log.txt."""
    with open(os.path.join(str(folder), "log.txt")) as file:
        return [json.loads(line) for line in file]


def assert_same_result(folder, reference):
    """Check for the weights, EMA, best checkpoint and rows of an undisturbed run; only times may differ."""
    assert_same_weights(folder, reference)
    assert_same_weights(folder, reference, store.BEST)
    here, there = (loading.load(os.path.join(path, store.LATEST)) for path in (folder, reference))
    for name in ("epoch", "max_accuracy", "best_epoch"):
        assert here[name] == there[name], name
    times = dict.fromkeys(("seconds", "images_per_second"))
    first, second = ([dict(row, **times) for row in log_of(path)] for path in (folder, reference))
    assert first == second
