"""What is reported where processes cannot connect."""

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
