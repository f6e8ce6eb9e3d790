"""A run that is killed at any moment resumes to the bits of an uninterrupted one."""

import json
import os

import pytest
from image_folders import write_images, write_noise
from processes import kill_after
from small_runs import assert_same_weights
from warm_runs import OPTIONS, current_torch, run_main, start_main

from checkpoints import loading, store


def words_for(images, folder, *more):
    return (
        ["--data-path=" + images, "--output-dir=" + folder, "--epochs=3", "--checkpoint-steps=1"] + OPTIONS + list(more)
    )


def check_killed_and_started_again(tmp_path, nproc, workers, *more):
    """Return what a run of `nproc` processes prints that was killed twice and has the bits of an uninterrupted one."""
    if "--balanced-sampling=0.7" in more:
        counts = {"cat": 18 * nproc, "dog": 6 * nproc}, {"cat": 6, "dog": 4}
        images = write_noise(str(tmp_path / "images"), *counts)
    else:
        images = write_images(str(tmp_path / "images"), train=12 * nproc)
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    status, _, err = run_main(words_for(images, whole, *more), nproc)
    assert status == 0, err
    words = words_for(images, cut, "--num-workers=%d" % workers, *more)
    for times in (2, 4):
        kill_after(start_main(words, nproc), os.path.join(cut, store.LATEST), times)
    status, out, err = run_main(words, nproc)
    assert status == 0, err
    assert "start         from %s" % cut in out
    assert_same_weights(cut, whole)
    with open(os.path.join(cut, "log.txt")) as file:
        assert [json.loads(line)["epoch"] for line in file] == list(range(2 if "--epochs=2" in more else 3))
    return out


@pytest.mark.parametrize("nproc, workers", [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_killed_and_started_again(tmp_path, nproc, workers):
    check_killed_and_started_again(tmp_path, nproc, workers)


def test_a_run_of_skewed_classes_is_killed_and_started_again(tmp_path):
    more = ("--balanced-sampling=0.7", "--class-weights=auto", "--best-by=f1")
    check_killed_and_started_again(tmp_path, 2, 2, *more)


@current_torch
@pytest.mark.parametrize(
    "nproc, more",
    [(3, "--grad-accum-steps=2"), (3, "--virtual-ranks=6"), (3, "--grad-compression=bf16"), (8, "--epochs=2")],
)
def test_many_processes_are_killed_and_started_again(tmp_path, nproc, more):
    out = check_killed_and_started_again(tmp_path, nproc, 0, "--batch-size=2", more)
    assert ("gradients     exchanged as bf16" in out) == ("bf16" in more)


@pytest.mark.skipif(
    not os.environ.get("TEST_COMPILED"), reason="compiling takes minutes: TEST_COMPILED=1 runs it, and .ci/run does"
)
def test_a_compiled_run_that_is_killed_and_started_again(tmp_path, images):
    """Compiled blocks are equal to themselves bit by bit; to what is written, up to rounding (test_model_golden.py)."""
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    status, out, err = run_main(words_for(images, whole, "--compile=on"))
    assert status == 0, err
    assert "compiled at their first use" in out
    words = words_for(images, cut, "--compile=on")
    kill_after(start_main(words), os.path.join(cut, store.LATEST), 3)
    status, _, err = run_main(words)
    assert status == 0, err
    assert_same_weights(cut, whole)
    assert loading.load(os.path.join(cut, store.LATEST))["args"]["compile"] == "on"


def test_another_number_of_processes_is_refused(tmp_path, images):
    out = str(tmp_path / "out")
    assert run_main(words_for(images, out))[0] == 0
    status, _, err = run_main(words_for(images, out, "--epochs=4"), 2)
    assert status == 2
    assert len(err.splitlines()) == 1 and "was written by a run of 1 process(es), this run has 2" in err
    assert "--nproc=1" in err
