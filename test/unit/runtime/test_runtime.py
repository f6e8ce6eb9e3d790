"""Checkpoints, ranks, devices and precision."""

import argparse
import os
import pickle
import types

import pytest
import torch
from torch import nn

import utils
from checkpoints import loading, store
from runtime import amp, distributed, seeding
from runtime.device import Device, cpu_has_bfloat16, select_device
from runtime.distributed import Ranks
from runtime.ema import Ema
from runtime.errors import RunError, UserError
from runtime.launch_environment import Launch, read_launch


def path_of(folder, name=store.LATEST):
    return os.path.join(str(folder), name)


def test_save_keeps_the_one_before_and_the_best(tmp_path):
    for number, is_best in enumerate([True, False, False]):
        store.save({"model": {"w": torch.full((2,), float(number))}}, str(tmp_path), is_best)
    assert loading.load(path_of(tmp_path))["model"]["w"][0] == 2
    assert loading.load(path_of(tmp_path, store.PREVIOUS))["model"]["w"][0] == 1
    assert loading.load(path_of(tmp_path, store.BEST))["model"]["w"][0] == 0
    assert sorted(os.listdir(str(tmp_path))) == sorted([store.LATEST, store.PREVIOUS, store.BEST])


def test_a_failed_save_leaves_the_old_one(tmp_path):
    store.save({"model": {}}, str(tmp_path), True)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        store.save({"model": lambda: None}, str(tmp_path), True)
    assert loading.load(path_of(tmp_path)) == {"model": {}}
    assert sorted(os.listdir(str(tmp_path))) == [store.BEST, store.LATEST]


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    store.save({"model": {}}, str(tmp_path), True)
    (tmp_path / (".%032x.tmp" % 7)).write_bytes(b"half")
    (tmp_path / "mine.tmp").write_bytes(b"the user's")
    utils.remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(str(tmp_path))) == [store.BEST, store.LATEST, "mine.tmp"]


def test_a_damaged_checkpoint_falls_back(tmp_path, caplog):
    for number in range(2):
        store.save({"model": {"w": torch.full((100,), float(number))}}, str(tmp_path), False)
    with open(path_of(tmp_path), "r+b") as file:
        file.truncate(300)
    loaded, path, damaged = loading.load_first_good(store.checkpoints_in(str(tmp_path)))
    assert path == path_of(tmp_path, store.PREVIOUS) and loaded["model"]["w"][0] == 0
    assert damaged == [path_of(tmp_path)]
    assert "not a readable checkpoint" in caplog.text


def test_authors_layout(tmp_path):
    args = argparse.Namespace(model="smlpnet_tiny", lr=5e-4, opt_betas=None)
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3, "args": args}, path_of(tmp_path))
    loaded = loading.load(path_of(tmp_path))
    assert loaded["epoch"] == 3 and loading.options_of(loaded)["model"] == "smlpnet_tiny"


def test_bare_weights(tmp_path):
    torch.save({"w": torch.ones(2)}, path_of(tmp_path))
    assert loading.load(path_of(tmp_path))["model"]["w"].sum() == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"this is no checkpoint",
        b"test",
        b"epoch,loss\n1,2\n",
        b"\x80\x02.",
        b"PK\x03\x04 but no zip",
        pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    with open(path_of(tmp_path), "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="checkpoint.pth is not a") as caught:
        loading.load(path_of(tmp_path))
    assert "\n" not in str(caught.value)


def test_other_contents_are_refused(tmp_path):
    for content in ([1, 2], {"weights": 3}, {}):
        torch.save(content, path_of(tmp_path))
        with pytest.raises(UserError, match="is not a checkpoint"):
            loading.load(path_of(tmp_path))
    for content in (
        {"model": {"w": 3}},
        {"model": 3},
        {"model": {}, "args": "text"},
        {"model": {}, "classes": 3},
        {"model": {}, "epoch": "x"},
        {"model": {}, "model_ema": [1]},
    ):
        torch.save(content, path_of(tmp_path))
        with pytest.raises(UserError, match="is not a checkpoint"):
            loading.load(path_of(tmp_path))
    torch.save({"model": {}, "format": 99}, path_of(tmp_path))
    with pytest.raises(UserError, match="has format 99"):
        loading.load(path_of(tmp_path))


def test_resume_takes_a_file_or_its_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        store.resolve(path_of(tmp_path))
    with pytest.raises(UserError, match="holds neither"):
        store.resolve(str(tmp_path))
    store.save({"model": {}}, str(tmp_path), True)
    assert store.resolve(str(tmp_path)) == path_of(tmp_path)
    assert store.resolve(path_of(tmp_path)) == path_of(tmp_path)


def test_fitting_names_the_difference():
    model = nn.Linear(2, 3)
    loading.check_fits("x.pth", model.state_dict(), model)
    with pytest.raises(UserError, match="it has no bias"):
        loading.check_fits("x.pth", {"weight": model.weight}, model)
    with pytest.raises(UserError, match=r"weight is \(4, 2\) there, \(3, 2\) here"):
        loading.check_fits("x.pth", nn.Linear(2, 4).state_dict(), model)
    with pytest.raises(UserError, match="extra has no place"):
        loading.check_fits("x.pth", dict(model.state_dict(), extra=model.bias), model)


@pytest.mark.parametrize(
    "environ, option, want",
    [
        ({}, None, Launch(0, 1, 0, 1)),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            None,
            Launch(5, 8, 1, 4),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, Launch(1, 2, 1, None)),  # torch.distributed.launch without --use_env
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
            None,
            Launch(3, 4, 1, 2),
        ),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, None, Launch(3, 4, 3, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None, Launch(0, 1, 0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "RANK": "0", "WORLD_SIZE": "1"}, None, Launch(0, 1, 0, None)),
    ],
)
def test_launchers(environ, option, want):
    assert read_launch(environ, option) == want


@pytest.mark.parametrize("environ", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_broken_launchers(environ):
    with pytest.raises(UserError):
        read_launch(environ)


def test_rendezvous_is_asked_for(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set: start with torchrun"):
        Ranks(Launch(0, 2, 0, 2), Device("cpu"))


def test_the_interface_is_asked_for_where_gloo_takes_the_wrong_one(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host0")
    monkeypatch.setenv("MASTER_PORT", "29500")
    said = RuntimeError(
        "Gloo connectFullMesh failed with [pair.cc:152]\n timed out connecting, remote=[127.0.0.1]:27544"
    )
    error = process_group.connection_error(said, "env://", 5, 2)
    assert isinstance(error, RunError) and str(error).startswith("2 processes met at host0:29500 but cannot reach each")
    assert "set GLOO_SOCKET_IFNAME" in str(error)


def test_missing_devices_name_what_to_install():
    for kind, message in (("npu", "torch_npu"), ("cuda", "CUDA")):
        if not hasattr(torch, kind) or not getattr(torch, kind).is_available():
            with pytest.raises(UserError, match="--device %s: .*%s" % (kind, message)):
                select_device(kind)
    assert select_device("cpu", 3, 8).torch_device == torch.device("cpu")


def test_too_few_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="8 processes on a machine with 2 cuda device.*--nproc=2"):
        select_device("cuda", 0, 8)


def test_precision_choice(monkeypatch):
    cpu = Device("cpu")
    assert amp.select_precision("none", cpu).name == "float32"
    wanted = "native bfloat16" if cpu_has_bfloat16() and hasattr(torch, "autocast") else "float32"
    assert amp.select_precision("auto", cpu).name == wanted
    with pytest.raises(UserError, match="--amp apex"):
        amp.select_precision("apex", cpu)
    with pytest.raises(UserError, match="--amp apex: apex does not import.*use --amp native"):
        amp.select_precision("apex", types.SimpleNamespace(kind="cuda"))
    if hasattr(torch, "autocast"):
        assert amp.select_precision("native", cpu).name == "native bfloat16"
        with pytest.raises(UserError, match="--amp-dtype float16"):
            amp.select_precision("native", cpu, "float16")


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast on a CPU")
def test_bfloat16_computes_in_bfloat16():
    precision = amp.select_precision("native", Device("cpu"))
    with precision.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


class ScaledBy:
    """A loss scaler whose scale is known, to see that clipping works on the true gradients."""

    def __init__(self, scale):
        self.factor, self.calls = scale, []

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, optimizer):
        self.calls.append("unscale")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= self.factor

    def step(self, optimizer):
        self.calls.append("step")
        if "unscale" not in self.calls:
            self.unscale_(optimizer)
        optimizer.step()

    def update(self):
        self.calls.append("update")


def test_gradients_are_unscaled_before_clipping():
    def weights_after(precision):
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        precision.backward(layer(torch.ones(1, 3)).sum() * 9, optimizer)
        precision.step(optimizer, layer.parameters(), 0.5)
        return layer.weight.detach()

    scaled = amp.NativePrecision(types.SimpleNamespace(kind="cpu"), "bfloat16")
    scaled.scaler = ScaledBy(1024.0)
    assert torch.allclose(weights_after(scaled), weights_after(amp.Precision()))
    assert scaled.scaler.calls == ["unscale", "step", "update"]


def test_average_follows_and_restores():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.module.weight.tolist() == pytest.approx([1.1, 1.1])
    assert ema.module.running_mean.tolist() == pytest.approx([0.1, 0.1])
    assert ema.module.num_batches_tracked.item() == 0
    other = Ema(nn.BatchNorm1d(2), 0.9)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.module.weight, ema.module.weight)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_position_seeds():
    seeds = {
        seeding.position_seed("sample", 0, epoch, rank, place)
        for epoch in range(9)
        for rank in range(9)
        for place in range(9)
    }
    assert len(seeds) == 9**3
    assert seeding.position_seed("sample", 1, 2) != seeding.position_seed("step", 1, 2)
    assert seeding.position_seed("sample", 1, 2) == seeding.position_seed("sample", 1, 2)
    seeding.seed_host(5)
    first = torch.rand(1)
    seeding.seed_host(5)
    assert torch.equal(torch.rand(1), first)
