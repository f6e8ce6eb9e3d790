"""torchrun's restarts, and two machines as network namespaces, of which one is lost and comes back."""

import os
import signal
import subprocess
import sys

import pytest
from image_folders import write_images
from machines import ADDRESSES, FIRST, SECOND
from paths import HELPERS
from processes import children_of, clean_environment, processes_of_session, wait_for
from small_runs import assert_same_weights
from warm_runs import OPTIONS, run_main

from checkpoints import store

pytest.importorskip("torch.distributed.run", reason="this torch has no torchrun")
PORT = "29655"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(str(tmp_path_factory.mktemp("elastic") / "images"), train=24)


def words_for(data, folder):
    words = ["--data-path=" + data, "--output-dir=" + folder, "--epochs=3", "--checkpoint-steps=1", "--print-freq=2"]
    return words + OPTIONS + ["--dist-timeout=6"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The output folder of an undisturbed run of two processes."""
    folder = str(tmp_path_factory.mktemp("whole") / "out")
    status, _, err = run_main(words_for(data, folder), 2)
    assert status == 0, err
    return folder


class Agent:
    """A torchrun, in a session of its own."""

    def __init__(self, options, words, log, prefix=(), **environ):
        command = [*prefix, sys.executable, "-m", "torch.distributed.run", "--monitor_interval=0.1", *options]
        self.log = log
        with open(log, "a") as file:
            self.process = subprocess.Popen(
                command + [os.path.join(HELPERS, "small_main.py"), *words],
                env=clean_environment(OMP_NUM_THREADS="1", **environ),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait(self, seconds=120):
        self.process.wait(timeout=seconds)
        return self.process.returncode

    def read(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def kill(self):
        """The machine is gone: everything on it ends at once; torchrun gives its processes sessions of their own."""
        pending = [self.process.pid]
        while pending:
            pid = pending.pop()
            pending += children_of(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


@pytest.fixture
def agents():
    started = []
    yield started
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
        wait_for(lambda agent=agent: not processes_of_session(agent.process.pid), 20)


def test_torchrun_starts_a_lost_rank_again(data, whole, agents, tmp_path):
    out = str(tmp_path / "out")
    options = ["--standalone", "--nproc_per_node=2", "--max_restarts=2"]
    agents.append(Agent(options, words_for(data, out), str(tmp_path / "log"), FAULT="die:1:1:3"))
    assert agents[0].wait() == 0, agents[0].read()
    assert "start         from %s" % os.path.join(out, store.LATEST) in agents[0].read()
    assert_same_weights(out, whole)


def start_node(name, words, log, restarts=3, **environ):
    """torchrun on one of the two machines; the first keeps the rendezvous."""
    address = ADDRESSES[name]
    options = ["--nnodes=2", "--nproc_per_node=1", "--max_restarts=%d" % restarts, "--rdzv_backend=c10d", "--rdzv_id=7"]
    options += ["--rdzv_endpoint=%s:%s" % (ADDRESSES[FIRST], PORT), "--local_addr=" + address]
    # A machine that is gone counts as there until its signs of life are this old: a new rendezvous would wait for it.
    options += ["--rdzv_conf=is_host=%d,keep_alive_interval=1,keep_alive_max_attempt=2" % (name == FIRST)]
    prefix = ("ip", "netns", "exec", name)
    environ.update(GLOO_SOCKET_IFNAME="veth0", FAULT="slow:0.3")
    # Otherwise torchrun tells the address of the store in the first round only, and a machine that comes later waits
    # for it in vain (torch 2.14).
    return Agent(options, words, log, prefix, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", **environ)


def test_a_machine_is_lost_and_comes_back(data, whole, machines, agents, tmp_path):
    """Its processes are killed and its cable is out; the other waits for it, and both resume from the checkpoint."""
    out = str(tmp_path / "out")
    words, logs = words_for(data, out), {name: str(tmp_path / name) for name in ADDRESSES}
    agents += [start_node(name, words, logs[name]) for name in ADDRESSES]
    wait_for(lambda: os.path.exists(os.path.join(out, store.LATEST)), 60)
    machines("-n", SECOND, "link", "set", "veth0", "down")
    agents[1].kill()
    wait_for(lambda: "rank 1 does not respond" in agents[0].read() or agents[0].process.poll() is not None, 60)
    machines("-n", SECOND, "link", "set", "veth0", "up")
    agents.append(start_node(SECOND, words, logs[SECOND]))
    assert agents[0].wait(150) == 0, agents[0].read() + agents[2].read()
    assert agents[2].wait(60) == 0, agents[2].read()
    assert "start         from %s" % os.path.join(out, store.LATEST) in agents[0].read() + agents[2].read()
    assert_same_weights(out, whole)
