"""Disks that are full, read-only or damage a file: the checkpoint before stays, and a run ends on the same weights."""

import os
import re
import resource
import signal
import subprocess

import pytest
import torch
from fault_runs import finish, resume, wait_for_line
from processes import children_of
from small_runs import assert_same_result
from warm_runs import current_torch, run_main, start_main, words_for

from checkpoints import loading, store

pytestmark = pytest.mark.usefixtures("nothing_is_left")
LATEST = store.LATEST


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(megabytes): a folder on a file system of that size; called again, that of another size."""
    folder = str(tmp_path / "disk")
    os.makedirs(folder)
    mounted = []

    def mount(megabytes):
        options = "size=%dk" % (megabytes * 1024) + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        done = subprocess.run(command, stderr=subprocess.PIPE)
        if done.returncode and not mounted:
            pytest.skip("NOT CHECKED: no file system can be mounted here (%s)" % done.stderr.decode().strip())
        assert done.returncode == 0
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def megabytes_of(path):
    return os.path.getsize(path) / 2.0**20


def test_a_full_disk_keeps_the_old_checkpoint_and_the_end_is_saved_elsewhere(data, whole, small_disk, tmp_path):
    size = megabytes_of(os.path.join(whole(1), LATEST))
    out = os.path.join(small_disk(2.6 * size), "out")
    words = words_for(data, out, "--checkpoint-steps=5")
    status, text, err = run_main(words, 1, {"TMPDIR": str(tmp_path)})
    assert status == 1 and "Traceback" not in err
    assert "%s cannot be written: " % os.path.join(out, LATEST) in text and "the run continues" in text
    old = loading.load(os.path.join(out, LATEST))
    assert (old["epoch"], old["step"]) < (2, 0)
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
    rescued = re.search(r"it is in (\S+) instead; make room, then resume with --resume=\1", err).group(1)
    saved, want = loading.load(rescued), loading.load(os.path.join(whole(1), LATEST))
    for part in ("model", "model_ema"):
        assert all(torch.equal(saved[part][name], value) for name, value in want[part].items())
    small_disk(100)
    resume(data, out, whole(1))


@current_torch
def test_room_that_comes_back_is_used(data, whole, small_disk):
    size = megabytes_of(os.path.join(whole(1), LATEST))
    out = os.path.join(small_disk(2.6 * size), "out")
    run = start_main(words_for(data, out, "--checkpoint-steps=2"), 1, {"FAULT": "slow:0.1"})
    wait_for_line(run, "cannot be written: ")
    small_disk(100)
    status, _, err = finish(run)
    assert status == 0, err
    assert_same_result(out, whole(1))


@current_torch
def test_a_folder_that_becomes_read_only(data, whole, small_disk, tmp_path):
    """For a while a file system that cannot be written to is mounted there."""
    out = os.path.join(small_disk(100), "out")
    run = start_main(words_for(data, out, "--checkpoint-steps=2"), 1, {"FAULT": "slow:0.1"})
    wait_for_line(run, "Epoch: [0]  [")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", out], check=True)
    try:
        wait_for_line(run, "cannot be written: Read-only file system")
    finally:
        subprocess.run(["umount", out], check=True)
    status, _, err = finish(run)
    assert status == 0, err
    assert_same_result(out, whole(1))


def test_a_quota_is_like_a_full_disk(data, tmp_path):
    out = str(tmp_path / "out")
    run = start_main(words_for(data, out, "--epochs=300"), 1, {"TMPDIR": str(tmp_path)})
    wait_for_line(run, "Max accuracy")
    rank = children_of(run.pid)[0]
    resource.prlimit(rank, resource.RLIMIT_FSIZE, (100000, 100000))
    wait_for_line(run, "cannot be written: File too large")
    os.kill(run.pid, signal.SIGTERM)
    status, _, err = finish(run, 30)
    assert status == 1 and "nor elsewhere" in err and os.path.join(out, LATEST) in err
    loading.load(os.path.join(out, LATEST))


def test_a_read_only_folder_is_refused_at_the_start(data, small_disk):
    folder = small_disk(10)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    status, _, err = run_main(words_for(data, os.path.join(folder, "out")))
    assert status == 2 and len(err.splitlines()) == 1 and "--output-dir %s" % folder in err


# ---- damaged


def truncate(data):
    return data[: len(data) // 2]


def flip_a_bit(data):
    place = data.index(b"archive/data/") + len(data) // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, lambda data: b"", lambda data: b"\0" * len(data)],
    ids=["cut", "bit", "empty", "zeros"],
)
def test_a_damaged_checkpoint_is_passed_over_and_kept(data, whole, tmp_path, damage):
    out = str(tmp_path / "out")
    assert run_main(words_for(data, out, "--epochs=2"))[0] == 0
    path = os.path.join(out, LATEST)
    with open(path, "rb") as file:
        damaged = damage(file.read())
    os.unlink(path)  # best.pth may be the same file
    with open(path, "wb") as file:
        file.write(damaged)
    printed = resume(data, out, whole(1))
    assert "%s is not a readable checkpoint" % path in printed and "falling back to the checkpoint before it" in printed
    assert "start         from %s" % os.path.join(out, store.PREVIOUS) in printed
    (renamed,) = [name for name in os.listdir(out) if name.startswith(LATEST + ".damaged.")]
    with open(os.path.join(out, renamed), "rb") as file:
        assert file.read() == damaged
