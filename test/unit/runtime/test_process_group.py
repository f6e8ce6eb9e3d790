"""What is reported where processes cannot connect."""

import time

import pytest

from runtime import process_group
from runtime.device import Device
from runtime.distributed import Ranks
from runtime.errors import RunError, UserError
from runtime.launch_environment import Launch


def test_rendezvous_is_asked_for(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set: start with torchrun"):
        Ranks(Launch(0, 2, 0, 2), Device("cpu"))


def test_the_interface_is_asked_for_where_gloo_takes_the_wrong_one(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host0")
    monkeypatch.setenv("MASTER_PORT", "29500")
    raised = RuntimeError(
        "Gloo connectFullMesh failed with [pair.cc:152]\n timed out connecting, remote=[127.0.0.1]:27544"
    )
    error = process_group.connection_error(raised, "env://", 5, 2)
    assert isinstance(error, RunError) and str(error).startswith("2 processes met at host0:29500 but cannot reach each")
    assert "set GLOO_SOCKET_IFNAME" in str(error)


@pytest.mark.parametrize(
    "environ, end",
    [
        ({"RANK": "0", "WORLD_SIZE": "4"}, "at localhost:29512"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, "at localhost:29512, which srun starts"),
        ({"SLURM_PROCID": "0"}, "was started without: write srun before python in the batch script"),
    ],
)
def test_who_waits_for_the_others_says_so_before_the_timeout(monkeypatch, environ, end):
    def wait_in_vain(*_, **__):
        time.sleep(2)
        raise RuntimeError("timed out")

    environ = dict(environ, MASTER_ADDR="localhost", MASTER_PORT="29512")
    monkeypatch.setattr(process_group.os, "environ", environ)
    monkeypatch.setattr(process_group, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(process_group.distributed, "rendezvous", wait_in_vain)
    reported = []
    with pytest.raises(RunError, match="4 processes did not all connect"):
        Ranks(Launch(0, 4, 0, 4), Device("cpu"), report=reported.append)
    (line,) = reported
    assert line.startswith("rank 0 waits for the other processes of 4 at localhost:29512") and line.endswith(end)
