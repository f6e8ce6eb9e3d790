"""Reading checkpoints, damaged ones and other files among them."""

import argparse
import os
import pickle

import pytest
import torch
from torch import nn

from checkpoints import loading, store
from runtime.errors import UserError


def path_of(folder, name=store.LATEST):
    return os.path.join(str(folder), name)


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


def test_fitting_names_the_difference():
    model = nn.Linear(2, 3)
    loading.check_fits("x.pth", model.state_dict(), model)
    with pytest.raises(UserError, match="it has no bias"):
        loading.check_fits("x.pth", {"weight": model.weight}, model)
    with pytest.raises(UserError, match=r"weight is \(4, 2\) there, \(3, 2\) here"):
        loading.check_fits("x.pth", nn.Linear(2, 4).state_dict(), model)
    with pytest.raises(UserError, match="extra has no place"):
        loading.check_fits("x.pth", dict(model.state_dict(), extra=model.bias), model)
