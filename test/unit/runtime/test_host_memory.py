"""What glibc's allocator keeps for this process; each effect is seen in a process of its own."""

import os
import subprocess
import sys

import pytest
from command_lines import parse
from in_process import restore
from paths import ROOT

from commands import train
from pipeline.loader import Loader
from pipeline.samplers import EvalShard, ShardBatches
from runtime import host_memory
from runtime.device import Device
from runtime.launch_environment import Launch

LAUNCH = Launch(0, 1, 0, 1)
# For each step: what it returns, and the page faults of a block of 128 MiB as large as one freed before.
PROGRAM = """
import resource
from runtime import host_memory

for step in STEPS:
    done = getattr(host_memory, step)()
    bytearray(128 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(128 << 20)
    print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
needs_glibc = pytest.mark.skipif(host_memory._glibc_mallopt() is None, reason="NOT CHECKED: the C library is not glibc")


def page_faults(*steps, **variables):
    """Return [(what a step returned, page faults after it)], in a process with these environment variables."""
    environ = {name: value for name, value in os.environ.items() if name not in host_memory.VARIABLES}
    words = [sys.executable, "-c", PROGRAM.replace("STEPS", repr(steps))]
    done = subprocess.run(words, cwd=ROOT, env=dict(environ, **variables), check=True, stdout=subprocess.PIPE)
    numbers = [int(word) for word in done.stdout.split()]
    return list(zip(numbers[::2], numbers[1::2]))


@pytest.fixture
def asked(monkeypatch):
    """What is asked of mallopt, whatever the C library."""
    asked = []
    monkeypatch.setattr(host_memory, "_glibc_mallopt", lambda: lambda *pair: asked.append(pair) or 1)
    for name in host_memory.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield asked
    restore()


@needs_glibc
def test_a_freed_block_is_used_again_without_page_faults_until_that_is_undone():
    (kept, few), (returned, many) = page_faults("keep_freed_memory", "return_freed_memory")
    assert kept and returned and few < 20 < many


@needs_glibc
def test_settings_of_the_user_are_left_alone():
    ((kept, faults),) = page_faults("keep_freed_memory", MALLOC_TRIM_THRESHOLD_="1000000")
    assert not kept and faults > 20


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory, "_glibc_mallopt", lambda: None)
    assert not host_memory.keep_freed_memory()


def test_a_refused_setting_is_no_success(asked, monkeypatch):
    assert host_memory.keep_freed_memory() and dict(asked) == host_memory.KEPT
    monkeypatch.setattr(host_memory, "_glibc_mallopt", lambda: lambda *_: 0)
    assert not host_memory.keep_freed_memory()


def test_a_run_on_a_cpu_keeps_its_memory(asked):
    train.open_device(parse("--device=cpu"), LAUNCH)
    assert dict(asked) == host_memory.KEPT


def test_a_run_on_an_accelerator_does_not(asked, monkeypatch):
    device = Device("cpu")
    device.is_accelerator = True
    monkeypatch.setattr(train, "select_device", lambda *_: device)
    train.open_device(parse(), LAUNCH)
    assert asked == []


class Asked:
    """What was asked of mallopt in the process that reads."""

    def __init__(self, asked):
        self.asked = asked

    def __getitem__(self, number):
        return list(self.asked)


@pytest.mark.parametrize("workers, settings", [(1, [host_memory.RETURNED]), (0, [])])
def test_loader_processes_return_memory(asked, workers, settings):
    loader = Loader(Asked(asked), ShardBatches(EvalShard(1), 1), list, workers, hands_over=False)
    ((found,),) = loader.items()
    loader.end()
    assert found == [pair for each in settings for pair in each.items()]
