"""tools/check_data.py ends, and leaves no process, when it is interrupted or one of its processes is killed."""

import os
import signal
import subprocess
import sys

import pytest
from odd_pictures import encoded, pixels, write
from paths import ROOT
from processes import children_of, clean_environment, processes_of_session, wait_for, with_default_signals


@pytest.fixture
def large_set(tmp_path):
    """A data set that takes a minute to decode: one large picture under many names."""
    content = encoded(pixels(1500, 1500), "PNG")
    for part in ("train", "val"):
        folder = write(tmp_path / "data" / part / "a", {"0.png": content})
        for number in range(1, 2000):
            os.link(os.path.join(folder, "0.png"), os.path.join(folder, "%d.png" % number))
    return str(tmp_path / "data")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="there is no /proc")
@pytest.mark.parametrize("way", ["interrupted", "killed"])
def test_it_ends(large_set, way):
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "tools", "check_data.py"), large_set, "--num-workers=2"],
        env=clean_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=with_default_signals,
    )
    wait_for(lambda: len(children_of(process.pid)) >= 2 and all(map(is_busy, children_of(process.pid)[-2:])))
    if way == "interrupted":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    lines = err.decode().splitlines()
    assert out == b"" and len(lines) == 1, (out, err)
    if way == "interrupted":
        assert (process.returncode, lines) == (130, ["check_data.py: interrupted: the data set is not checked"])
    else:
        assert process.returncode == 1 and "a process was lost" in lines[0] and "lower --num-workers" in lines[0]
    wait_for(lambda: not processes_of_session(process.pid), 20)


def is_busy(pid):
    """Whether a process has used a tenth of a second: its pictures are being decoded."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return int(file.read().rsplit(")", 1)[1].split()[11]) >= 10
    except OSError:
        return False
