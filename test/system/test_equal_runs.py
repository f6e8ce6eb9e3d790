"""Runs that do the same work in another way: on fewer processes, with --deterministic, under another umask."""

import os
import signal

import pytest
import torch
from fault_runs import finish, wait_for_line
from small_runs import assert_same_result, log_of
from warm_runs import current_torch, run_main, start_main, words_for

from checkpoints import loading, store

pytestmark = pytest.mark.usefixtures("nothing_is_left")
LATEST = store.LATEST


@current_torch
def test_virtual_ranks_do_the_work_of_as_many_processes(data, tmp_path):
    """The same curve on 4, 2 and 1 processes, up to the order in which gradients are added."""
    options = ("--opt=momentum", "--lr=0.02", "--mixup=0.8", "--epochs=10", "--batch-size=4", "--print-freq=1")
    folders = {}
    for nproc in (4, 2, 1):
        folders[nproc] = str(tmp_path / str(nproc))
        more = () if nproc == 4 else ("--virtual-ranks=4",)
        status, out, err = run_main(words_for(data, folders[nproc], *options, *more), nproc)
        assert status == 0, err
    want = loading.load(os.path.join(folders[4], LATEST))
    for nproc in (2, 1):
        got = loading.load(os.path.join(folders[nproc], LATEST))
        for mine, theirs in zip(log_of(folders[nproc]), log_of(folders[4])):
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
            assert mine["test_loss"] == pytest.approx(theirs["test_loss"], abs=1e-4)
        for part in ("model", "model_ema"):
            assert distance(got[part], want[part]) < 1e-5, (nproc, part)
        for name, value in want["model"].items():
            if "running" in name:
                assert torch.allclose(got["model"][name], value, rtol=1e-3, atol=1e-5), name


def distance(got, want):
    """The norm of the difference of all weights over that of the weights."""
    names = [name for name, value in want.items() if value.is_floating_point()]
    difference = sum((got[name].double() - want[name].double()).pow(2).sum() for name in names)
    return (difference / sum(want[name].double().pow(2).sum() for name in names)).sqrt().item()


def test_a_run_of_two_processes_is_resumed_by_one(data, whole, tmp_path):
    out = str(tmp_path / "out")
    run = start_main(words_for(data, out, "--opt=momentum"), 2, {"FAULT": "slow:0.1"})
    wait_for_line(run, "Epoch: [1]  [")
    os.kill(run.pid, signal.SIGTERM)
    assert finish(run)[0] == 143
    status, _, err = run_main(words_for(data, out, "--opt=momentum"))
    assert status == 2 and "--virtual-ranks 2" in err
    status, text, err = run_main(words_for(data, out, "--opt=momentum", "--virtual-ranks=2"))
    assert status == 0, err
    assert "1 process(es) for 2 virtual ranks" in text
    reference = whole(2, "--opt=momentum")
    here, there = (loading.load(os.path.join(path, LATEST)) for path in (out, reference))
    assert distance(here["model"], there["model"]) < 1e-5
    status, _, err = run_main(words_for(data, out, "--virtual-ranks=3"), 2)
    assert status == 2 and "--virtual-ranks 3 cannot be divided evenly among 2 processes" in err


def test_deterministic_runs_are_equal(data, tmp_path):
    folders = [str(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        assert run_main(words_for(data, folder, "--deterministic", "--epochs=1", "--num-workers=2"))[0] == 0
    assert_same_result(*folders)


def test_files_have_the_permissions_that_the_user_asks_for(data, tmp_path):
    before = os.umask(0o027)
    try:
        assert run_main(words_for(data, tmp_path / "out", "--epochs=1"))[0] == 0
    finally:
        os.umask(before)
    for name in os.listdir(str(tmp_path / "out")):
        assert os.stat(str(tmp_path / "out" / name)).st_mode & 0o777 == 0o640, name
