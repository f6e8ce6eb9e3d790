"""runtime/programs.py: how a program ends, and what it reports."""

import logging
import os
import resource
import signal
import subprocess
import sys

import pytest
from paths import ROOT

from runtime import programs
from runtime.errors import RunError, Stopped, UserError
from runtime.programs import report, run_program, slow_imports


def raising(error):
    def run(argv):
        raise error

    return run


def stopped(number, is_saved):
    stop = Stopped(number)
    stop.is_saved = is_saved
    return stop


@pytest.mark.parametrize(
    "error, status, text",
    [
        (UserError("--x is wrong"), 2, "error: --x is wrong"),
        (RunError("the loss is NaN"), 1, "failed: the loss is NaN"),
        (stopped(signal.SIGTERM, True), 143, "stopped by SIGTERM; run the same command again to resume"),
        (stopped(signal.SIGUSR1, False), 138, "stopped by SIGUSR1; nothing is saved, for want of --output-dir"),
        (KeyboardInterrupt(), 130, "interrupted; all is well"),
        (OSError(28, "No space left on device", "a.pth"), 1, "failed: [Errno 28] No space left on device: 'a.pth'"),
        (RuntimeError("CUDA out of memory.\nTried"), 1, "failed: out of memory (CUDA out of memory. Tried): buy more"),
        (
            OSError(24, "Too many open files", "a.png"),
            1,
            "failed: too many open files: raise the limit (ulimit -n), or lower --num-workers",
        ),
        (MemoryError(), 1, "failed: out of memory (MemoryError): buy more"),
        (UserError("line\nbreak"), 2, "error: line break"),
    ],
)
def test_a_program_ends_with_one_line(capsys, error, status, text):
    words = {"interrupted": "interrupted; all is well", "memory_advice": "buy more"}
    assert run_program("x.py", raising(error), [], **words) == status
    assert capsys.readouterr().err == "x.py: %s\n" % text


def test_other_errors_are_shown_with_their_traceback(capsys):
    assert run_program("x.py", raising(KeyError("strange")), []) == 1
    err = capsys.readouterr().err
    assert err.startswith("x.py: Traceback") and "KeyError: 'strange'" in err


def test_a_program_raises_its_limit_of_open_files():
    """The soft one, to the hard one, which only root may raise."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = []

    def run(argv):
        seen.append(resource.getrlimit(resource.RLIMIT_NOFILE))

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        assert run_program("x.py", run, []) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert seen == [(before[1], before[1])]


@pytest.mark.parametrize("returned, status", [(None, 0), (0, 0), (1, 1)])
def test_the_status_of_a_run(returned, status):
    assert run_program("x.py", lambda argv: returned, []) == status


def test_a_failed_peer_is_reported_late(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr(programs.time, "sleep", waited.append)
    assert run_program("x.py", raising(RuntimeError("Connection closed by peer [1.2.3.4]\nmore")), []) == 1
    assert capsys.readouterr().err == "x.py: failed: another process of the run is gone " + (
        "(Connection closed by peer [1.2.3.4])\n"
    )
    assert waited == [programs.LAUNCHER_SECONDS]


@pytest.mark.parametrize("local_rank, one_rank, speaks", [("0", False, True), ("1", False, False), ("1", True, True)])
def test_one_process_of_a_machine_reports_what_all_know(capsys, monkeypatch, local_rank, one_rank, speaks):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert run_program("x.py", raising(UserError("bad", one_rank)), []) == 2
    assert bool(capsys.readouterr().err) == speaks


def test_reports_go_to_the_log_file_too(tmp_path, capsys):
    handler = logging.FileHandler(str(tmp_path / "log"))
    logging.getLogger().addHandler(handler)
    try:
        report("x.py", "hello\x07")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "x.py: hello\\x07\n" == capsys.readouterr().err


PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, %r)
from runtime.programs import run_program, slow_imports

def run(argv):
    if argv[0] == "imports":
        with slow_imports():
            print("ready", flush=True)
            time.sleep(30)
    elif argv[0] == "works":
        print("ready", flush=True)
        time.sleep(30)
    else:
        print("x" * 10**6)

sys.exit(run_program("x.py", run))
"""


def start(word):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM % ROOT, word],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    "word, status, err", [("imports", -signal.SIGINT, b""), ("works", 130, b"x.py: interrupted\n")]
)
def test_ctrl_c_prints_no_traceback(word, status, err):
    with start(word) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == err
    assert process.returncode == status


def test_nobody_reads_stdout():
    with start("prints") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_stdout():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PROGRAM % ROOT, "prints"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr == b"x.py: failed: [Errno 28] No space left on device\n"


def test_the_handler_of_ctrl_c_is_put_back():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with slow_imports():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


LEAVES = """
import atexit, sys
from torch import distributed
from runtime.programs import leave
atexit.register(print, "taken down")
if "alone" not in sys.argv:
    distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
print("printed", end=" ")
leave(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "status, more, want",
    [(3, [], "printed "), (0, [], "printed taken down\n"), (3, ["alone"], "printed taken down\n")],
)
def test_after_a_failure_of_one_of_several_processes_nothing_is_taken_down(tmp_path, status, more, want):
    command = [sys.executable, "-c", LEAVES, str(tmp_path / "meet"), str(status), *more]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (status, want)
