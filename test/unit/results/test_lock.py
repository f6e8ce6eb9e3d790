"""The lock of an output folder."""

import os
import threading
import time

import pytest

from results import lock
from runtime.errors import UserError


@pytest.fixture
def another_run(tmp_path, monkeypatch):
    """Lock the folder as another process would, which holds it until `unlock` of what this returns."""
    lock.lock(str(tmp_path))
    theirs = lock._held[:]
    monkeypatch.setattr(lock, "_held", [])
    return theirs


def test_two_runs_do_not_share_a_folder(tmp_path, another_run):
    with pytest.raises(UserError, match="another run is writing there"):
        lock.lock(str(tmp_path), patience_s=0)
    os.close(another_run[0].handle)
    assert lock.lock(str(tmp_path), patience_s=0)


def test_a_process_locks_a_folder_once(tmp_path):
    assert lock.lock(str(tmp_path)) and not lock.lock(str(tmp_path))


def test_the_file_of_a_run_that_failed_at_the_start_is_removed(tmp_path):
    lock.lock(str(tmp_path))
    lock.unlock()
    assert os.listdir(str(tmp_path)) == []


def test_the_file_of_a_run_stays_and_so_does_one_that_was_there(tmp_path):
    lock.lock(str(tmp_path))
    lock.keep_file()
    lock.unlock()
    assert os.listdir(str(tmp_path)) == [".lock"]
    lock.lock(str(tmp_path))
    lock.unlock()
    assert os.listdir(str(tmp_path)) == [".lock"]


def test_a_file_that_is_removed_while_a_run_waits_is_no_lock(tmp_path, another_run, monkeypatch):
    """Otherwise a third run would make a new file, and lock that."""

    def release(seconds):
        os.unlink(str(tmp_path / ".lock"))
        os.close(another_run[0].handle)

    monkeypatch.setattr(lock.time, "sleep", release)
    assert lock.lock(str(tmp_path))
    assert os.path.samestat(os.fstat(lock._held[0].handle), os.stat(str(tmp_path / ".lock")))


def test_a_clock_that_is_set_back_does_not_prolong_the_wait(tmp_path, another_run, monkeypatch):
    set_at = time.time()
    monkeypatch.setattr(time, "time", lambda: set_at - 3600)
    ticks = []
    with pytest.raises(UserError, match="another run is writing there"):
        lock.lock(str(tmp_path), patience_s=0.6, tick=lambda: ticks.append(threading.get_ident()))
    assert ticks
