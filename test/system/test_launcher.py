"""tools/launch.py with real processes: none is left behind, however the launcher or what started it ends."""

import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT
from processes import children_of, clean_environment, is_running, wait_for

RANK = """import os, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
time.sleep(300)
"""
STARTER = "import subprocess, sys; subprocess.call(sys.argv[1:])"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT CHECKED: only Linux ends a process with its parent"
)


@pytest.fixture
def start(tmp_path):
    """start(word...): a process that has started the launcher, and the numbers of the launcher and of its two ranks."""
    program, folder = tmp_path / "rank.py", tmp_path / "ranks"
    program.write_text(RANK)
    folder.mkdir()
    started = []

    def start(*words):
        launcher = [sys.executable, os.path.join(ROOT, "tools", "launch.py"), "--nproc=2", str(program), str(folder)]
        process = subprocess.Popen([sys.executable, "-c", STARTER, *launcher, *words], env=clean_environment())
        wait_for(lambda: len(os.listdir(str(folder))) == 2)
        ranks = [int(name) for name in os.listdir(str(folder))]
        started.extend([*children_of(process.pid), *ranks])
        return process, started[0], ranks

    yield start
    for pid in started:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


def test_no_rank_outlives_a_killed_launcher(start):
    process, launcher, ranks = start("stubborn")
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in ranks), 20)
    process.wait()


def test_a_launcher_ends_with_what_started_it(start):
    process, launcher, ranks = start()
    process.kill()
    wait_for(lambda: not any(is_running(pid) for pid in (launcher, *ranks)), 20)
    process.wait()
