"""The processor cores of each process."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from runtime.affinity import cores_of

# Two packages of two cores with two hardware threads each, numbered as Linux does.
SERVER = {cpu: (cpu % 4 // 2, cpu % 2) for cpu in range(8)}


@pytest.mark.parametrize(
    "processes, cores",
    [
        (1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (2, [[0, 1, 4, 5], [2, 3, 6, 7]]),  # a package each
        (4, [[0, 4], [1, 5], [2, 6], [3, 7]]),  # a core each, with both of its threads
        (3, [[0, 4], [1, 5], [2, 3, 6, 7]]),
        (8, [[0], [4], [1], [5], [2], [6], [3], [7]]),
        (9, [[0], [4], [1], [5], [2], [6], [3], [7], [0]]),
    ],
)
def test_cores_of_each_process(processes, cores):
    assert [cores_of(rank, processes, SERVER) for rank in range(processes)] == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind processes to cores")
def test_a_process_is_bound():
    code = "import os; from runtime.affinity import bind_cores; print(bind_cores(%d, 2), os.sched_getaffinity(0))"
    printed = []
    for rank in range(2):
        printed.append(subprocess.check_output([sys.executable, "-c", code % rank], cwd=ROOT).decode().strip())
    for line in printed:
        own, affinity = line.replace("{", "[").replace("}", "]").split("] [")
        assert own.strip("[]") == affinity.strip("[]")
    if len(os.sched_getaffinity(0)) > 1:
        assert printed[0] != printed[1]
