"""Trainings on Parquet files: the bits do not depend on workers, processes or a kill, and are those of folders."""

import os

import pytest
from image_folders import write_images
from parquet_data import need_pyarrow, write_parquet_folder
from processes import kill_after
from small_runs import assert_same_weights
from warm_runs import RANKS, run_main, saving_words_for, start_main

from checkpoints import store

need_pyarrow()
WINDOWS = {"FAULT": "window:40000"}  # of two row groups, where all fit into one otherwise


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folder of class folders, and that of Parquet files, of one data set."""
    root = tmp_path_factory.mktemp("parquet")
    folder = write_images(str(root / "folder"), train=24)
    return folder, write_parquet_folder(folder, str(root / "parquet"))


@pytest.mark.parametrize("ranks, workers", [("1", 2), ("2", 0), ("2 virtual", 0)])
def test_files_that_fit_into_a_window_give_the_bits_of_folders(places, tmp_path, ranks, workers):
    nproc, more = RANKS[ranks]
    outs = [str(tmp_path / "folder"), str(tmp_path / "parquet")]
    for data, out in zip(places, outs):
        status, said, err = run_main(saving_words_for(data, out, "--num-workers=%d" % workers, *more), nproc)
        assert status == 0 and not err, err
    assert_same_weights(*outs)
    assert "Parquet file" in said


def test_windows_give_the_same_bits_with_any_workers_and_processes_and_after_kills(places, tmp_path):
    outs = [str(tmp_path / name) for name in ("plain", "workers", "virtual", "killed")]
    for out, nproc, more in (
        (outs[0], 2, ["--num-workers=0"]),
        (outs[1], 2, ["--num-workers=2"]),
        (outs[2], 1, ["--num-workers=2", "--virtual-ranks=2"]),
    ):
        status, _, err = run_main(saving_words_for(places[1], out, *more), nproc, WINDOWS)
        assert status == 0 and not err, err
    for times in (2, 2):
        words = saving_words_for(places[1], outs[3], "--num-workers=2")
        kill_after(start_main(words, 2, WINDOWS), os.path.join(outs[3], store.LATEST), times)
    status, _, err = run_main(saving_words_for(places[1], outs[3]), 2, WINDOWS)
    assert status == 0, err
    for out in outs[1:]:
        assert_same_weights(outs[0], out)


def test_a_run_does_not_resume_within_an_epoch_in_another_order(places, tmp_path):
    out = str(tmp_path / "out")
    kill_after(start_main(saving_words_for(places[1], out), 1, WINDOWS), os.path.join(out, store.LATEST), 2)
    status, _, err = run_main(saving_words_for(places[0], out))
    assert status == 2 and "stopped within an epoch over 48 images" in err
    status, _, err = run_main(saving_words_for(places[1], out), 1, {"FAULT": "window:60000"})
    assert status == 2 and "stopped within an epoch over 48 images" in err


def test_repeated_augmentation_and_an_evaluation(places, tmp_path):
    out = str(tmp_path / "out")
    words = [word for word in saving_words_for(places[1], out, "--num-workers=2") if word != "--no-repeated-aug"]
    status, said, err = run_main(words, 1, WINDOWS)
    assert status == 0 and not err, err
    results = []
    for nproc in (1, 2):
        folder = str(tmp_path / str(nproc))
        words = saving_words_for(
            places[1], folder, "--eval", "--resume=" + os.path.join(out, store.LATEST), "--dist-eval"
        )
        status, said, err = run_main(words, nproc, WINDOWS)
        assert status == 0 and not err, err
        results.append([line.partition("INFO ")[2] for line in said.splitlines() if "on the 10 test images" in line])
    assert results[0] == results[1] and results[0]
