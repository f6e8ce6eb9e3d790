"""train_multinode.sh on two machines, each a network namespace: gloo over the cable between them."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from image_folders import write_images
from machines import ADDRESSES, CABLE, FIRST, NAMES
from paths import HELPERS, ROOT
from processes import clean_environment, processes_of_session, wait_for
from small_runs import assert_same_weights
from warm_runs import OPTIONS, current_torch, run_main
from wrappers import run_wrapper, start_wrapper

from checkpoints import loading, store

LAUNCH = [sys.executable, os.path.join(ROOT, "tools", "launch.py")]
CASE = "SPACH-SMLP_bs4_2p_acc.log"  # of two processes, wherever they run


@pytest.fixture
def started():
    """A list of started wrappers; none is left running."""
    processes = []
    yield processes
    for process in processes:
        lose(process)


def lose(process):
    """Lose the machine: everything on it ends at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes_of_session(process.pid), 20)


def start_nodes(started, project, words, interface=CABLE):
    """Start the same command on both machines."""
    for rank, name in enumerate(NAMES):
        environ = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": ADDRESSES[FIRST], "MASTER_PORT": "29733"}
        environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=interface, FAULT="slow:0.2")
        prefix = ["ip", "netns", "exec", name]
        started.append(start_wrapper(project, "train_multinode.sh", words, prefix=prefix, **environ))
    return started[-2:]


def ends_of(nodes):
    """Return [(exit status, stdout, stderr)] of both."""
    texts = [node.communicate(timeout=300) for node in nodes]
    return [(node.returncode, out, err) for node, (out, err) in zip(nodes, texts)]


def step_of(folder):
    """Return (epoch, step) of the latest checkpoint."""
    loaded = loading.load(os.path.join(folder, store.LATEST))
    return loaded["epoch"], loaded.get("step", 0)


@current_torch
def test_two_machines(project, machines, started, tmp_path):
    """One is lost, one is stopped, and the resumed run ends with the weights that one machine computes."""
    data = write_images(str(tmp_path / "some images"), train=20)
    words = ["--data_path=" + data, "--nproc=1", "--epochs=3", "--batch-size=4", "--checkpoint-steps=1"]
    words += [word for word in OPTIONS if not word.startswith("--batch-size")] + ["--print-freq=2", "--dist-timeout=20"]
    out = str(tmp_path / "the output")
    latest = os.path.join(out, store.LATEST)

    first, second = start_nodes(started, project, words + ["--output_dir=" + out])
    wait_for(lambda: os.path.exists(latest), 60)
    lose(second)
    status, text, err = ends_of([first])[0]
    assert status == 1 and "another process of the run is gone" in err and "Traceback" not in err, err
    assert "Final" not in text

    before = os.stat(latest).st_mtime_ns
    first, second = start_nodes(started, project, words + ["--output_dir=" + out])
    wait_for(lambda: os.stat(latest).st_mtime_ns != before, 60)
    second.send_signal(signal.SIGTERM)
    for status, text, err in ends_of([first, second]):
        assert (
            status == 143 and "stopped by SIGTERM; run the same command again to resume" in err and "Final" not in text
        ), err
    assert step_of(out) < (2, 0)

    (status, text, err), (second_status, second_text, second_err) = ends_of(
        start_nodes(started, project, words + ["--output_dir=" + out])
    )
    assert (status, second_status) == (0, 0), err + second_err
    assert "start         from " + latest in text
    assert text.splitlines()[-5:-4] == ["------------------ Final result ------------------"]
    assert second_text.splitlines()[-1].startswith("Node 1 has ended; the final result is printed on node 0")
    assert "Final " not in second_text and os.path.exists(os.path.join(out, CASE))
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith("the output.")]  # no run was renamed

    alone = str(tmp_path / "alone")
    words = ["--config=" + os.path.join(ROOT, "configs", "smlpnet_tiny_ascend.yaml"), "--dist-eval", *words[2:]]
    status, _, err = run_main(["--data-path=" + data, "--output-dir=" + alone, *words], 2)
    assert status == 0, err
    assert_same_weights(out, alone)
    with open(os.path.join(out, "summary.json")) as file:
        assert json.load(file)["world_size"] == 2


@current_torch
def test_the_wrong_interface_ends_both(project, images, machines, started):
    """gloo itself would wait five times as long as its timeout."""
    words = ["--data_path=" + images, "--nproc=1", "--dist-timeout=4", *OPTIONS]
    ends = ends_of(start_nodes(started, project, words, "lo"))
    assert [status for status, _, _ in ends] == [1, 1], ends
    for _, _, err in ends:
        assert "2 processes met at %s:29733 but cannot reach each other" % ADDRESSES[FIRST] in err, err
        assert "set GLOO_SOCKET_IFNAME to the interface that leads to the others" in err and "Traceback" not in err


def launch(*words, **environ):
    """Run tools/launch.py: (exit status, stderr)."""
    done = subprocess.run(
        LAUNCH + list(words), env=clean_environment(**environ), stderr=subprocess.PIPE, text=True, timeout=300
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        (["--nporc=2"], "unrecognized arguments: --nporc=2"),
        (["--nnodes="], "NNODES (--nnodes) must be a number from 1 to 100000, it is ''"),
        (["--nnodes=2", "--node-rank="], "NODE_RANK (--node-rank) must be a number from 0 to 1, it is ''"),
        (["--nnodes=2", "--node-rank=2"], "NODE_RANK (--node-rank) must be a number from 0 to 1, it is '2'"),
        (["--nnodes=2"], "MASTER_ADDR (--master-addr) is missing"),
        (["--nnodes=2", "--master-addr=h", "--master-port=x"], "MASTER_PORT (--master-port) must be a number"),
    ],
)
def test_what_is_wrong_with_the_machines_is_named(words, message):
    status, err = launch(*words, os.devnull)
    assert status == 2 and err.startswith("launch.py: error: " + message) and len(err.splitlines()) == 1


def test_wrong_variables_end_the_wrapper(project, images):
    words = ["--data_path=" + images, "--nproc=1", "--nnodes", "2"]  # an option wins over its variable
    status, out, err = run_wrapper(project, "train_multinode.sh", words, NNODES="x", NODE_RANK="2", MASTER_ADDR="h")
    assert status == 2 and not out, err
    assert err == "launch.py: error: NODE_RANK (--node-rank) must be a number from 0 to 1, it is '2'\n"


def test_a_port_that_is_taken_is_refused_on_the_first_machine():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        port = other.getsockname()[1]
        status, err = launch("--nnodes=2", "--node-rank=0", "--master-addr=h", os.devnull, MASTER_PORT=str(port))
        assert status == 2 and "MASTER_PORT %d (--master-port) cannot be used" % port in err


def test_a_check_of_the_options_takes_no_port():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        assert launch("--check", "main.py", MASTER_PORT=str(other.getsockname()[1])) == (0, "")


def test_the_ranks_of_the_third_machine(tmp_path):
    program = tmp_path / "program.py"
    text = "%(RANK)s %(LOCAL_RANK)s of %(WORLD_SIZE)s, %(LOCAL_WORLD_SIZE)s at %(MASTER_ADDR)s:%(MASTER_PORT)s\\n"
    program.write_text("import os, sys; sys.stderr.write('%s' %% os.environ)" % text)
    status, err = launch("--nproc=2", "--nnodes=3", "--node-rank=2", "--master-addr=h", str(program))
    assert (status, sorted(err.splitlines())) == (0, ["4 0 of 6, 2 at h:29500", "5 1 of 6, 2 at h:29500"])


def test_a_first_machine_that_cannot_be_reached(tmp_path, images):
    main = os.path.join(HELPERS, "small_main.py")
    words = [main, "--data-path=" + images, "--output-dir=" + str(tmp_path / "out"), *OPTIONS, "--dist-timeout=3"]
    runs = {}
    for address in ("127.0.0.1", "no.such.machine.invalid"):
        command = [*LAUNCH, "--nnodes=2", "--node-rank=1", "--master-addr=" + address, "--master-port=1", *words]
        runs[address] = subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE)
    for address, run in runs.items():
        err = run.communicate(timeout=300)[1].decode()
        assert run.returncode in (1, 2) and address + ":1" in err and "Traceback" not in err, err
        if run.returncode == 1:  # torch 1 does not wait for a name that it cannot resolve
            assert "2 processes did not all connect to %s:1 within 3 s (--dist-timeout)" % address in err
