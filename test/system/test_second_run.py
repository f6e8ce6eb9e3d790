"""A second run in an output folder that another still holds: it reads nothing there before it has the lock."""

import os
import shutil

import pytest
from processes import wait_for
from small_runs import assert_same_weights
from warm_runs import OPTIONS, run_main, start_main

from checkpoints import store

fcntl = pytest.importorskip("fcntl")


def words_for(images, folder, *more):
    return ["--data-path=" + images, "--output-dir=" + str(folder), "--epochs=1", *OPTIONS, *more]


def test_a_run_that_waited_resumes_what_the_first_one_has_written(tmp_path, images):
    first, out = tmp_path / "first", tmp_path / "out"
    assert run_main(words_for(images, first))[0] == 0
    out.mkdir()
    with open(str(out / ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = start_main(words_for(images, out, "--seed=5"), 2)
        number = os.fstat(file.fileno()).st_ino
        wait_for(lambda: run.poll() is not None or is_waiting(number), 60)
        assert run.poll() is None, run.communicate()
        for name in os.listdir(str(first)):
            if name != ".lock":
                shutil.copy(str(first / name), str(out / name))
    text, err = run.communicate(timeout=300)
    assert run.returncode == 2 and "was written by a run of 1 process(es)" in err and "random weights" not in text
    status, text, err = run_main(words_for(images, out, "--seed=5"))
    assert status == 0 and "nothing is left to train" in text and "its options differ: --seed 0, not 5" in text, err
    assert_same_weights(out, first)
    assert_same_weights(out, first, store.BEST)


def is_waiting(number):
    """Return whether a process has opened the file with this number, to lock it."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            handles = ["/proc/%s/fd/%s" % (pid, name) for name in os.listdir("/proc/%s/fd" % pid)]
            found += any(os.path.exists(handle) and os.stat(handle).st_ino == number for handle in handles)
        except OSError:
            continue
    return found > 1  # this process has it open too


def test_all_processes_end_alike_where_the_folder_is_refused(tmp_path, images):
    work = tmp_path / "work"
    work.mkdir()
    (work / "log.txt").write_text("the user's")
    status, _, err = run_main(words_for(images, work), 2)
    assert status == 2 and len(err.splitlines()) == 1, err
    assert "it holds no run, but a file log.txt" in err
    assert os.listdir(str(work)) == ["log.txt"] and (work / "log.txt").read_text() == "the user's"
