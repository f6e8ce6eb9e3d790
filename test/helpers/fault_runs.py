"""Fixtures and functions of the tests in which a run meets a fault, and leaves nothing behind."""

import os
import re
import signal
import time

import pytest
from image_folders import write_images
from processes import processes_of_session, wait_for
from small_runs import assert_same_result
from warm_runs import run_main, start_main, words_for


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of 24 images of each of two classes."""
    return write_images(str(tmp_path_factory.mktemp("faults") / "images"), train=24)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """whole(nproc, *options): the output folder of an undisturbed run."""
    folders = {}

    def run(nproc, *options):
        if (nproc, options) not in folders:
            folder = str(tmp_path_factory.mktemp("whole") / "out")
            status, _, err = run_main(words_for(data, folder, *options), nproc)
            assert status == 0, err
            folders[nproc, options] = folder
        return folders[nproc, options]

    return run


@pytest.fixture
def nothing_is_left(request, monkeypatch):
    """No process that the test's module starts by `start_main`, and no shared memory, outlives a test."""
    started = []
    start = start_main

    def noted(*arguments, **options):
        run = start(*arguments, **options)
        started.append(run)
        return run

    monkeypatch.setattr(request.module, "start_main", noted)
    before = set(os.listdir("/dev/shm"))
    yield
    for run in started:
        if run.poll() is None:  # the test has failed
            os.killpg(run.pid, signal.SIGKILL)
    wait_for(lambda: not any(processes_of_session(run.pid) for run in started), 20)
    deadline = time.time() + 20
    while left_in_shared_memory(before) and time.time() < deadline:
        time.sleep(0.1)
    assert not left_in_shared_memory(before)


def left_in_shared_memory(before):
    """What is new in /dev/shm, save what belongs to a living process, as of a test beside this one: by its name, or
    because it is mapped there."""
    names = set(os.listdir("/dev/shm")) - before
    owners = {name: re.match(r"(?:torch_|sem\.loky-)(\d+)[_-]", name) for name in names}
    names = {name for name, owner in owners.items() if not owner or not os.path.exists("/proc/" + owner.group(1))}
    mapped = mapped_inodes() if names else set()
    return {name for name in names if inode_of("/dev/shm/" + name) not in mapped | {None}}


def inode_of(path):
    """The number of the file, None where it is gone."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def mapped_inodes():
    """The numbers of the files in /dev/shm that living processes have mapped; a semaphore is mapped by another name."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/maps" % pid) as file:
                found.update(int(number) for number in re.findall(r" (\d+) +/dev/shm/", file.read()))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def wait_for_line(run, text, name="stdout"):
    """Wait until the run has printed the text."""
    wait_for(lambda: text in run.read(name) or run.poll() is not None, 60)
    assert text in run.read(name), run.communicate()


def finish(run, seconds=120, is_quiet=True):
    """Wait for the end of the run: (exit status, stdout, stderr), where `is_quiet` without a traceback."""
    out, err = run.communicate(timeout=seconds)
    assert not is_quiet or "Traceback" not in err, err
    return run.returncode, out, err


def resume(data, folder, reference, nproc=1, *more):
    """Resume the run to its end, and compare it with the undisturbed one; return what it printed."""
    status, out, err = run_main(words_for(data, folder, *more), nproc)
    assert status == 0, err
    assert_same_result(folder, reference)
    return out
