"""The story of a run: what is told of the EMA weights is measured on the EMA weights."""

import json
import multiprocessing
import os
import re

import pytest
import torch
from small_runs import log_of, weights

import engine
from checkpoints import loading, store
from runtime.compat import KEEP_WORKERS
from runtime.errors import RunError


def evaluated(small, resume, result):
    assert small("--eval", "--resume=%s" % resume, "--eval-json=%s" % result) == 0
    return json.loads(result.read_text())


def test_what_is_told_of_the_ema_weights_is_theirs(small, tmp_path, capsys):
    """In log.txt, in the log, and by --eval: the numbers of a checkpoint that holds the EMA weights alone."""
    out, alone = tmp_path / "out", str(tmp_path / "alone.pth")
    assert small("--output-dir=%s" % out, "--model-ema-decay=0.99") == 0
    lines = re.findall(r"EMA: Acc@1 (\S+) Acc@5 \S+ loss (\S+)", capsys.readouterr().out)
    torch.save(dict(loading.load(str(out / store.LATEST)), model=weights(out)["model_ema"], model_ema=None), alone)
    want = evaluated(small, alone, tmp_path / "alone.json")
    row = log_of(out)[-1]
    assert len(lines) == 3 and lines[-1] == ("%.3f" % want["acc1"], "%.3f" % want["loss"])
    got = evaluated(small, os.path.join(str(out), store.LATEST), tmp_path / "out.json")
    for name in ("acc1", "acc5", "loss"):
        assert row["ema_" + name] == got["ema_" + name] == want[name]
        assert row["test_" + name] == got[name]
    assert "ema_loss" not in want and want["loss"] != got["loss"]


@pytest.mark.skipif(not KEEP_WORKERS, reason="this torch starts loader processes for each epoch")
def test_the_loader_processes_of_evaluation_start_before_the_first_step(small, monkeypatch):
    begun, before = [], set(multiprocessing.active_children())

    def begin(run, batches, *_):
        begun.append(len(set(multiprocessing.active_children()) - before))
        raise RunError("begun")

    monkeypatch.setattr(engine, "train_one_epoch", begin)
    for workers in (0, 1):
        assert small("--num-workers=%d" % workers) == 1
    assert begun == [0, 2]
