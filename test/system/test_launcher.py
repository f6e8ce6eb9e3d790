"""tools/launch.py with real processes: none is left behind, however the launcher or what started it ends."""

import os
import subprocess
import sys

import pytest
from paths import ROOT
from processes import clean_environment, is_running, wait_for

RANK = "import os, sys, time; open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(300)"
STARTER = "import subprocess, sys; subprocess.call(sys.argv[1:])"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT CHECKED: only Linux ends a process with its parent"
)


@pytest.fixture
def started(tmp_path):
    """(a process that has started the launcher, the process numbers of the launcher and of its two ranks)."""
    program, folder = tmp_path / "rank.py", tmp_path / "ranks"
    program.write_text(RANK)
    folder.mkdir()
    launcher = [sys.executable, os.path.join(ROOT, "tools", "launch.py"), "--nproc=2", str(program), str(folder)]
    process = subprocess.Popen([sys.executable, "-c", STARTER, *launcher], env=clean_environment())
    wait_for(lambda: len(os.listdir(str(folder))) == 2)
    ranks = [int(name) for name in os.listdir(str(folder))]
    with open("/proc/%d/stat" % ranks[0]) as file:
        parent = int(file.read().rsplit(")", 1)[1].split()[1])
    yield process, parent, ranks
    for pid in (parent, *ranks):
        if is_running(pid):
            os.kill(pid, 9)
    process.wait()


def test_no_rank_outlives_a_killed_launcher(started):
    _, launcher, ranks = started
    os.kill(launcher, 9)
    wait_for(lambda: not any(is_running(pid) for pid in ranks), 20)


def test_a_launcher_ends_with_what_started_it(started):
    process, launcher, ranks = started
    process.kill()
    wait_for(lambda: not any(is_running(pid) for pid in (launcher, *ranks)), 20)
