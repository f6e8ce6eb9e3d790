"""Fixtures of the system tests: real wrappers and real processes on a small network and a small folder of images."""

import os
import shutil

import pytest
import warm_runs
from fault_runs import data, nothing_is_left, whole
from image_folders import write_images
from machines import ADDRESSES, CABLE, FIRST, NAMES, SECOND, ip
from object_store import object_store, object_store_server
from paths import ROOT
from small_models import create_small_model

from training import build

__all__ = ["data", "nothing_is_left", "object_store", "object_store_server", "whole"]

# What a copy of the project needs beside the files *.py.
FOLDERS = ("checkpoints", "commands", "configs", "models", "options", "pipeline", "results", "runtime", "test")
FOLDERS += ("storage", "tools", "training")


@pytest.fixture
def images(tmp_path):
    return write_images(str(tmp_path / "some images"))


@pytest.fixture
def project(tmp_path):
    """A copy of the project whose wrappers train the small network, in a path with a space."""
    copy = str(tmp_path / "a project")
    os.makedirs(copy)
    for name in os.listdir(ROOT):
        if name.endswith(".py") or name in FOLDERS:
            source, target = os.path.join(ROOT, name), os.path.join(copy, name)
            if os.path.isdir(source):
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("output", "__pycache__", "golden"))
            else:
                shutil.copy(source, target)
    return copy


@pytest.fixture(scope="session", autouse=True)
def close_warm_servers():
    yield
    warm_runs.close_servers()


@pytest.fixture
def machines():
    """The machines FIRST and SECOND, reached by the prefix `ip netns exec NAME`; gives the function `ip`."""
    if not shutil.which("ip"):
        pytest.skip("NOT CHECKED: two machines; the command ip (iproute2) is missing")
    made = ip("netns", "add", FIRST)
    if made.returncode:
        pytest.skip("NOT CHECKED: two machines; no network namespace can be made here (%s)" % made.stderr.strip())
    try:
        assert ip("netns", "add", SECOND).returncode == 0
        link = ["link", "add", CABLE, "netns", FIRST, "type", "veth", "peer", "name", CABLE, "netns", SECOND]
        assert ip(*link).returncode == 0
        for name, address in ADDRESSES.items():
            for words in (["addr", "add", address + "/24", "dev", CABLE], ["link", "set", CABLE, "up"]):
                assert ip("-n", name, *words).returncode == 0
            assert ip("-n", name, "link", "set", "lo", "up").returncode == 0
        yield ip
    finally:
        for name in NAMES:
            ip("netns", "delete", name)


@pytest.fixture
def small(monkeypatch):
    """main.py in this process, with the small network."""
    monkeypatch.setattr(build, "create_model", create_small_model)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "WANDB_MODE", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
