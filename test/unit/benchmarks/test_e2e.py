"""benchmark.py e2e: what it counts, against a clock that is turned by hand."""

import os
import types

import pytest
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

from benchmarks import e2e, photos


class Clock:
    """Stands in for the module time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class SlowBatches:
    """Three batches of 10 images, each of which takes a second of the clock to come."""

    batch_size, parts = 10, 1

    def __init__(self, clock):
        self.clock = clock

    def __len__(self):
        return 3

    def epoch(self, epoch, first_step):
        for _ in range(len(self)):
            self.clock.now += 1
            yield None


@pytest.mark.parametrize("least_seconds, epochs", [(0, 1), (20, 2), (21, 3)])
def test_the_first_epoch_is_not_counted_and_the_others_fill_the_time(monkeypatch, least_seconds, epochs):
    """The first step takes 500 seconds, the work of every other one takes 2 and its batch takes 1."""
    clock, done = Clock(), []

    def train_one_epoch(run, batches, epoch):
        for _ in batches.epoch(epoch):
            clock.now += 2 if done else 500
        clock.now += 1  # in which the device works, as synchronize() finds
        done.append(epoch)

    monkeypatch.setattr(e2e, "time", clock)
    monkeypatch.setattr(e2e.engine, "train_one_epoch", train_one_epoch)
    waited = []
    run = types.SimpleNamespace(device=types.SimpleNamespace(synchronize=lambda: waited.append(clock.now)))
    rows = e2e.waiting(run, e2e.WatchedBatches(SlowBatches(clock), 3), least_seconds)
    assert done == list(range(epochs + 1)) and len(waited) == epochs + 1
    assert [row.value for row in rows] == pytest.approx([30, 3])  # of 10 seconds 3 wait, and 30 images come


def test_photos_above_a_number_are_links(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "MOST_PHOTOS", 2)
    monkeypatch.setattr(photos, "WIDTH", 20)
    monkeypatch.setattr(photos, "HEIGHT", 16)
    photos.write_photos(str(tmp_path), train=5, val=2)
    files = {part: list((tmp_path / part).glob("*/*.jpg")) for part in ("train", "val")}
    contents = {part: {os.stat(path).st_ino for path in paths} for part, paths in files.items()}
    assert [len(files["train"]), len(files["val"])] == [5, 2]
    assert [len(contents["train"]), len(contents["val"]), len(contents["train"] & contents["val"])] == [2, 2, 0]
