"""A run takes no more of anything after twenty epochs than after a few."""

import os

import pytest
from processes import children_of, wait_for
from small_runs import log_of
from warm_runs import OPTIONS, current_torch, start_main

NPROC = 2
EPOCHS = 20
STRETCHES = ((4, 9), (9, 14), (14, 19))  # of epochs; the ones before fill allocators and caches
# What is lost in every epoch grows in every stretch. An allocator that takes another 8 MiB, or copies of pages once
# shared, come in one of them (seen in a loader). At any moment images, the log, and the batches on their way between
# processes, a descriptor for each tensor, may be open.
MOST_GROWTH = {"memory of the rank, MiB": 4, "memory of its loaders, MiB": 4, "open files": 2}
MOST_AT_ALL = {"memory of the rank, MiB": 64, "memory of its loaders, MiB": 64, "open files": 12}


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
    assert run.communicate(timeout=300) and run.returncode == 0
    assert len(log_of(out)) == EPOCHS + 1
    marks = sorted({epoch for stretch in STRETCHES for epoch in stretch})
    with capsys.disabled():
        for rank in range(NPROC):
            print("\nrank %d of %d, after %s epochs:" % (rank, NPROC, ", ".join(str(epoch + 1) for epoch in marks)))
            for name in rows[0][rank]:
                print("  %-28s" % name + "".join("%8.1f" % rows[epoch][rank][name] for epoch in marks))
    for rank in range(NPROC):
        for name in rows[0][rank]:
            grown = [rows[last][rank][name] - rows[first][rank][name] for first, last in STRETCHES]
            assert min(grown) <= MOST_GROWTH.get(name, 0), (rank, name, grown)
            assert sum(grown) <= MOST_AT_ALL.get(name, 0), (rank, name, grown)
