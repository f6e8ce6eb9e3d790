"""Ascend's environment: where it is set, and that the user's own settings stay."""

import os
import subprocess

import pytest
from paths import ROOT
from processes import clean_environment

SETTINGS = {
    "TASK_QUEUE_ENABLE": "2",
    "CPU_AFFINITY_CONF": "1",
    "HCCL_CONNECT_TIMEOUT": "1200",
    "HCCL_WHITELIST_DISABLE": "1",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
}


def environment_after(script, **more):
    """Return the Ascend variables that a shell has after sourcing common.sh and running `script`."""
    environ = {name: value for name, value in clean_environment().items() if name not in SETTINGS}
    environ.update(more)
    command = ["bash", "-euo", "pipefail", "-c", ". test/common.sh; %s; env" % script]
    out = subprocess.check_output(command, cwd=ROOT, env=environ, universal_newlines=True)
    pairs = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    return {name: pairs[name] for name in SETTINGS if name in pairs}


@pytest.mark.parametrize("words", ["--npu", "--device npu", "--device=npu"])
def test_set_where_an_npu_is_asked_for(words):
    assert environment_after("read_options 1 --data_path=x %s; prepare_environment" % words, PYTHON="true") == SETTINGS


@pytest.mark.parametrize("words", ["--device cpu", "--device=cuda"])
def test_not_set_elsewhere(words):
    assert environment_after("read_options 1 --data_path=x %s; prepare_environment" % words, PYTHON="true") == {}


def test_not_set_under_a_scheduler_that_has_its_own():
    script = "read_options 1 --data_path=x --npu; prepare_environment"
    assert environment_after(script, PYTHON="true", etp_running_flag="true") == {}


def test_the_user_s_settings_stay():
    script = "read_options 1 --data_path=x --npu; prepare_environment"
    after = environment_after(script, PYTHON="true", HCCL_CONNECT_TIMEOUT="7", TASK_QUEUE_ENABLE="1")
    assert after == dict(SETTINGS, HCCL_CONNECT_TIMEOUT="7", TASK_QUEUE_ENABLE="1")
    assert os.path.exists(os.path.join(ROOT, "test", "env_npu.sh"))
