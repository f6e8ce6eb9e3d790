"""A run takes no more of anything after twenty epochs than after a few."""

import os

import pytest
from conftest import OPTIONS, children_of, current_torch, log_of, start_main, wait_for

NPROC = 2
EPOCHS, SETTLED = 20, 5  # after so many epochs allocators and caches are full
# Allocators and caches breathe, and at any moment an image or the log may be open; a leak of one in an epoch is more.
MOST_GROWTH = {"memory of the rank, MiB": 12, "memory of its loaders, MiB": 12, "open files": 5}


def count_of(pid, kind):
    return len(os.listdir("/proc/%d/%s" % (pid, kind)))


def memory_mib(pid):
    with open("/proc/%d/status" % pid) as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def figures(rank):
    """What a rank and its loaders hold now."""
    loaders = children_of(rank)
    return {
        "memory of the rank, MiB": memory_mib(rank),
        "memory of its loaders, MiB": sum(memory_mib(loader) for loader in loaders),
        "open files": count_of(rank, "fd") + sum(count_of(loader, "fd") for loader in loaders),
        "threads": count_of(rank, "task") + sum(count_of(loader, "task") for loader in loaders),
        "processes": 1 + len(loaders),
    }


@current_torch
def test_nothing_grows(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    from tools.make_digits import write_digits

    data, out = str(tmp_path / "digits"), str(tmp_path / "out")
    write_digits(data)
    words = ["--data-path=" + data, "--output-dir=" + out, "--epochs=%d" % (EPOCHS + 1), "--checkpoint-steps=10"]
    words += OPTIONS + ["--batch-size=48", "--num-workers=1", "--lr=5e-4"]
    run = start_main(words, NPROC)
    rows = []
    for epoch in range(EPOCHS):
        wait_for(lambda epoch=epoch: run.poll() is not None or "Epoch: [%d]  [" % (epoch + 1) in run.read())
        assert run.poll() is None, run.communicate()
        rows.append([figures(rank) for rank in children_of(run.pid)])
    assert run.communicate(timeout=120) and run.returncode == 0
    assert len(log_of(out)) == EPOCHS + 1
    with capsys.disabled():
        for rank in range(NPROC):
            early, late = rows[SETTLED][rank], rows[-1][rank]
            print("\nrank %d of %d, after %d and after %d epochs:" % (rank, NPROC, SETTLED + 1, EPOCHS))
            for name in early:
                print("  %-28s %7.1f %7.1f" % (name, early[name], late[name]))
    for rank in range(NPROC):
        for name in rows[0][rank]:
            early, late = rows[SETTLED][rank][name], rows[-1][rank][name]
            assert late - early <= MOST_GROWTH.get(name, 0), (rank, name, early, late)
