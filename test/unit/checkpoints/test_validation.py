"""Whatever an entry of a checkpoint is, the file is read as it should be, or one short line names it."""

import argparse
import collections
import random
import zipfile

import numpy
import pytest
import torch
from odd_checkpoints import aliased, nested, one_entry_changes, recursive
from small_models import create_small_model

from checkpoints import loading, store, validation, weights
from runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("no_hang")
STATS = {"train_loss": 0.7, "train_lr": 0.1, "images_per_second": 9.5, "seconds": 1.5, "train_steps_skipped": 0}
ROW = dict(STATS, epoch=0, test_acc1=50.0, test_loss=0.7)
SIZE = 10**6  # bytes of the file


def checkpoint(**changes):
    """Return a checkpoint like those that a run writes, of two parameters."""
    layer = torch.nn.Linear(3, 2)
    found = {
        "model": layer.state_dict(),
        "model_ema": layer.state_dict(),
        "format": 1,
        "epoch": 0,
        "step": 1,
        "epoch_state": {"step": 1, "loss_sum": 0.5, "loss_count": 1, "recent_losses": [0.5], "stats": dict(STATS)},
        "max_accuracy": 50.0,
        "best_epoch": 0,
        "history": [dict(ROW)],
        "seconds": 12.5,
        "classes": ["cat", "dog"],
        "world_size": 1,
        "run_id": "0f" * 16,
        "train_images": [4, 12345, "folder", 678],
        "args": {"model": "smlpnet_tiny", "input_size": 32, "opt": "adamw", "opt_betas": [0.9, 0.99], "npu": None},
    }
    return dict(found, **changes)


def message_of(content):
    with pytest.raises(UserError) as caught:
        validation.validated("c.pth", content, SIZE)
    message = str(caught.value)
    assert "c.pth" in message and "\n" not in message and len(message) < 400, message
    return message


def test_a_right_checkpoint_is_returned_as_it_is():
    whole = checkpoint()
    found = validation.validated("c.pth", whole, SIZE)
    assert list(found) == list(whole)
    assert all(torch.equal(found["model"][name], value) for name, value in whole["model"].items())
    assert {name: found[name] for name in found if "model" not in name} == {
        name: whole[name] for name in whole if "model" not in name
    }


def test_every_change_of_one_entry_is_taken_or_refused_in_one_line():
    whole = checkpoint()
    results = {"taken": 0, "refused": 0}
    for text, make in one_entry_changes(whole):
        try:
            found = validation.validated("c.pth", make(), SIZE)
        except UserError as error:
            message = str(error)
            assert message.startswith("c.pth") and "\n" not in message and len(message) < 400, (text, message)
            results["refused"] += 1
            continue
        results["taken"] += 1
        assert isinstance(found["model"], dict), text
        assert all(isinstance(row["epoch"], int) for row in found.get("history", ())), text
        assert type(found.get("epoch", 0)) is int and type(found.get("classes", [])) is list, text
    assert min(results.values()) > 100, results


@pytest.mark.parametrize("as_namespace", [False, True])
def test_a_sample_of_the_changes_through_a_file(tmp_path, as_namespace):
    options = checkpoint()["args"]
    whole = checkpoint(args=argparse.Namespace(**options) if as_namespace else options)
    changes = list(one_entry_changes(whole))
    path = str(tmp_path / "c.pth")
    for text, make in random.Random(int(as_namespace)).sample(changes, 150):
        try:
            torch.save(make(), path, **store.ZIP_FORMAT)
        except RecursionError:
            continue  # torch writes no such file
        try:
            loading.load(path)
        except UserError as error:
            assert path in str(error) and "\n" not in str(error), text


def test_what_is_missing_or_none_is_left_out():
    none = dict.fromkeys(
        ("model_ema", "epoch", "step", "epoch_state", "history", "seconds", "classes", "args", "train_images")
    )
    found = validation.validated("c.pth", checkpoint(**none), SIZE)
    assert sorted(found) == ["best_epoch", "format", "max_accuracy", "model", "run_id", "world_size"]


@pytest.mark.parametrize("name", ["history", "args", "classes", "epoch_state", "model", "seconds", "format"])
@pytest.mark.parametrize("make", [aliased, recursive, nested, lambda: nested(dict), lambda: 10 ** (10**5)])
def test_endless_values_are_refused_at_once(name, make):
    found = make()
    if not (name == "args" and isinstance(found, dict)):  # an option that is no single value is left out
        message_of(checkpoint(**{name: found}))
    kinds = {"history": lambda value: [dict(ROW, test_acc1=value)], "classes": lambda value: ["cat", value]}
    if name in kinds:
        message_of(checkpoint(**{name: kinds[name](make())}))


def test_a_long_text_that_is_repeated_is_refused():
    text = "x" * 10**4
    assert "more text" in message_of(checkpoint(classes=[text] * 10**5))
    assert "more text" in message_of(checkpoint(args={"a": [text] * 10**5}))
    assert "more epochs" in message_of(checkpoint(history=[dict(ROW)] * (10**5 + 1)))


def test_more_classes_than_the_model_has_outputs_are_refused():
    names = [str(number) for number in range(10**5)]
    assert "its classes are 100000, and no layer" in message_of(checkpoint(classes=names))
    assert validation.validated("c.pth", checkpoint(classes=[0, 1]), SIZE)["classes"] == []  # they name nothing


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    head = torch.zeros(1).expand(10**7, 128)
    assert "more values than the file can hold" in message_of({"model": {"head.weight": head}})
    path = str(tmp_path / "c.pth")
    torch.save({"model": {"head.weight": head}}, path, **store.ZIP_FORMAT)
    with pytest.raises(UserError, match="more values than the file can hold"):
        loading.load(path)


def test_many_classes_of_one_feature_need_no_memory(tmp_path, monkeypatch):
    """The model for the classes that a file claims is built once the shapes are known to be those of a model."""
    model = create_small_model("smlpnet_tiny", num_classes=3, image_size=32).state_dict()
    model["mlp_head.0.weight"], model["mlp_head.0.bias"] = torch.zeros(10**6, 1), torch.zeros(10**6)
    built = []

    def create(name, **words):
        built.append(words["num_classes"])
        return create_small_model(name, **words)

    monkeypatch.setattr(weights, "create_model", create)
    with pytest.raises(UserError, match="of no model of that family"):
        weights.identify("c.pth", {"model": model})
    assert set(built) == {1}


def test_objects_with_attributes_in_place_of_methods():
    model = collections.OrderedDict(checkpoint()["model"])
    model.__dict__.update(items=3, keys=None, copy="x", _metadata=5)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.__dict__.update(dim=1, shape=None, numel="x", detach=None)
    whole = collections.OrderedDict(model=model, model_ema={"w": parameter})
    whole.__dict__.update(get=None, items=7)
    found = validation.validated("c.pth", whole, SIZE)
    assert type(found["model"]) is dict and found["model_ema"]["w"].dim() == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: {"state_dict": model},
        lambda model: {"state_dict": model, "epoch": 3, "arch": "smlpnet_tiny", "optimizer": {}},
        lambda model: {"model": {"module." + name: value for name, value in model.items()}},
        lambda model: {"_orig_mod." + name: value for name, value in model.items()},
        lambda model: {"state_dict": {"module._orig_mod." + name: value for name, value in model.items()}},
        lambda model: {"_orig_mod.module." + name: value for name, value in model.items()},
        lambda model: {name.replace("layer.", "layer._orig_mod."): value for name, value in model.items()},
        lambda model: dict({"module." + name: value for name, value in model.items()}, n_averaged=torch.tensor(3)),
        lambda model: {"model_ema": model},
        lambda model: {"state_dict_ema": model},
        lambda model: {"model_ema": {"module." + name: value for name, value in model.items()}},
        lambda model: {"model": None, "model_ema": model, "epoch": 3},
        lambda model: {"model": "smlpnet_tiny", "state_dict": model},
        lambda model: {name: torch.nn.Parameter(value) for name, value in model.items()},
    ],
)
def test_weights_are_found_whatever_they_are_wrapped_in(wrap):
    model = {"layer.weight": torch.rand(2, 3), "layer.bias": torch.rand(2)}
    found = validation.validated("c.pth", wrap(dict(model)), SIZE)
    assert sorted(found["model"]) == sorted(model)
    assert all(torch.equal(found["model"][name], value) for name, value in model.items())
    assert all(not value.requires_grad for value in found["model"].values())


def test_names_that_only_seem_to_be_wrapped_stay():
    model = {"module.weight": torch.zeros(1), "weight": torch.zeros(1)}
    assert sorted(validation.validated("c.pth", {"model": dict(model)}, SIZE)["model"]) == sorted(model)
    twice = {"a._orig_mod.b": torch.zeros(1), "a.b": torch.zeros(1)}
    assert "two parameters of one name" in message_of(twice)


def test_torch_advises_nobody_to_run_the_code_of_a_file(tmp_path):
    path = str(tmp_path / "c.pth")
    for content in ({"model": {"w": numpy.zeros(2)}}, {"model": {"w": torch.zeros(1)}, "best": numpy.float64(3)}):
        torch.save(content, path, **store.ZIP_FORMAT)
        with pytest.raises(UserError) as caught:
            loading.load(path)
        message = str(caught.value)
        assert "weights_only" not in message and "arbitrary" not in message and "\n" not in message
        assert "it contains numpy" in message and len(message) < 300


def test_an_archive_that_expands_is_refused(tmp_path):
    path = str(tmp_path / "c.pth")
    torch.save({"model": {"w": torch.zeros(2)}}, path, **store.ZIP_FORMAT)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data + bytes(10**7) if "/data/" in name else data)
    with pytest.raises(UserError, match="shorter than its contents"):
        loading.load(path)
