"""Runs that resume from a checkpoint in which one entry is odd: they train, or one short line says what is wrong."""

import random
import sys

import pytest
import torch
from bare_runs import run_of
from command_lines import parse
from odd_checkpoints import aliased, nested, one_entry_changes, recursive
from torch import nn

from checkpoints import loading, safetensors_files, store, training_state
from runtime.ema import NoEma
from runtime.errors import UserError
from training import optim

pytestmark = pytest.mark.usefixtures("no_hang")


class Resumed:
    """A run of two layers, with what a resume restores and the first step uses."""

    def __init__(self, name="adamw"):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        self.optimizer = optim.build_optimizer(parse("--opt=" + name), self.net, 0.01)
        self.run = run_of(self.net, optimizer=self.optimizer, ema=NoEma())

    def step(self):
        for parameter in self.net.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.run.update()
        return self

    def state(self):
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9}
        scaler["_growth_tracker"] = 3
        amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}}
        return dict(self.run.state_dict(), scaler=scaler, amp=amp)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lookahead_sgd"])
def test_every_change_of_the_optimizer_and_the_loss_scale(name):
    saved = Resumed(name).step().state()
    model = saved["model"]
    results = {"resumed": 0, "refused": 0}
    del saved["model"]
    for text, make in random.Random(0).sample(list(one_entry_changes(saved, most=3)), 200):
        changed = dict(make(), model=model)
        resumed = Resumed(name)
        try:
            loading.load_into("c.pth", resumed.run, changed)
            resumed.step().step()
            results["resumed"] += 1
        except UserError as error:
            message = str(error)
            assert message.startswith("c.pth cannot be resumed") and "\n" not in message, (text, message)
            assert len(message) < 650, (text, message)
            results["refused"] += 1
    assert min(results.values()) > 10, results


@pytest.mark.parametrize("make", [aliased, recursive, nested, lambda: nested(dict), lambda: 10**400])
def test_endless_values_are_refused_at_once(make):
    saved = Resumed().step().state()
    for name in ("optimizer", "scaler"):
        with pytest.raises(UserError):
            loading.load_into("c.pth", Resumed().run, dict(saved, **{name: make()}))
    next(iter(saved["optimizer"]["state"].values()))["exp_avg"] = make()
    with pytest.raises(UserError):
        loading.load_into("c.pth", Resumed().run, saved)


def test_an_unchanged_state_is_taken_over(tmp_path):
    whole = Resumed().step()
    cut = Resumed()
    loading.load_into("c.pth", cut.run, whole.state())
    assert cut.run.resumed_from == "c.pth"
    for got, want in zip(cut.step().net.parameters(), whole.step().net.parameters()):
        assert torch.equal(got, want)
    assert cut.run.resumed_from is None


def test_a_fault_after_the_first_step_is_no_fault_of_the_checkpoint(monkeypatch):
    resumed = Resumed()
    loading.load_into("c.pth", resumed.run, Resumed().step().state())
    resumed.step()

    def fail(*_):
        raise RuntimeError("a device is lost")

    monkeypatch.setattr(resumed.run.precision, "step", fail)
    with pytest.raises(RuntimeError, match="a device is lost"):
        resumed.step()


def test_a_fused_optimizer_never_sees_a_state_of_another_shape():
    """It would write beyond the tensor, and the process would crash."""
    resumed = Resumed()
    if not resumed.optimizer.param_groups[0].get("fused"):
        pytest.skip("NOT CHECKED: this torch has no fused optimizer here")
    saved = resumed.step().state()["optimizer"]
    for name, value in (("exp_avg", torch.zeros(1)), ("step", torch.zeros(7)), ("exp_avg_sq", torch.zeros(9, 9))):
        state = dict(saved, state=dict(saved["state"]))
        state["state"][1] = dict(state["state"][1], **{name: value})
        with pytest.raises(ValueError, match="does not have its parameter's shape"):
            training_state.optimizer_state(state, resumed.optimizer)


CHANGES = {
    "epoch_state text": {"epoch_state": "x"},
    "epoch_state of another kind": {"epoch_state": {"loss": 1}},
    "epoch_state results": {"epoch_state": {"step": 3, "stats": {"train_loss": 1.0}}},
    "history of numbers": {"history": [1]},
    "history without results": {"history": [{"epoch": 0}]},
    "seconds": {"seconds": float("nan")},
    "no seconds": {"seconds": None},
    "world_size": {"world_size": None},
    "optimizer": {"optimizer": "x"},
    "no epoch": {"epoch": None},
    "format": {"format": torch.zeros(3)},
    "max_accuracy": {"max_accuracy": float("nan")},
    "classes": {"classes": [["a"], ["b"]]},
    "scaler": {"scaler": {"scale": "x"}},
    "args": {"args": {"model": 3}},
}


def test_a_run_from_a_file_with_an_odd_entry(small, tmp_path, capsys):
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=1") == 0
    whole, path = loading.load(str(tmp_path / "a" / store.LATEST)), str(tmp_path / "c.pth")
    for name, change in CHANGES.items():
        store.save_as(dict(whole, **change), path)
        capsys.readouterr()
        status = small("--epochs=2", "--resume=" + path, "--output-dir=%s" % (tmp_path / name))
        errors = capsys.readouterr().err
        assert status == (0 if None in change.values() else 2), (name, errors)
        assert len(errors.splitlines()) == (1 if status else 0) and "Traceback" not in errors, (name, errors)


def forms(folder, whole):
    """Write the checkpoint `whole` in each form that other programs write; return {form: path}."""
    model = whole["model"]
    contents = {
        "state_dict": {"state_dict": model, "epoch": 4, "arch": "other"},
        "of DDP": {"model": {"module." + name: value for name, value in model.items()}},
        "compiled": {"_orig_mod." + name: value for name, value in model.items()},
        "EMA alone": {"model_ema": model},
    }
    for form, content in contents.items():
        store.save_as(content, str(folder / (form + ".pth")))
    (folder / "previous").mkdir()
    store.save_as(whole, str(folder / "previous" / store.PREVIOUS))
    return dict({form: str(folder / (form + ".pth")) for form in contents}, previous=str(folder / "previous"))


def check_every_option(small, capsys, path, form):
    """Read the weights in `path` by each option that takes a file."""
    teacher = ["--distillation-type=soft", "--teacher-model=smlpnet_tiny"]
    for words in (["--finetune=" + path], ["--eval", "--resume=" + path], [*teacher, "--teacher-path=" + path]):
        capsys.readouterr()
        assert small("--epochs=1", *words) == 0, (form, words, capsys.readouterr().err)


def test_every_option_takes_every_form_of_a_file(small, tmp_path, capsys):
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=1") == 0
    for form, path in forms(tmp_path, loading.load(str(tmp_path / "a" / store.LATEST))).items():
        check_every_option(small, capsys, path, form)


def test_every_option_takes_safetensors(small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("safetensors")
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=1") == 0
    whole, path = loading.load(str(tmp_path / "a" / store.LATEST)), str(tmp_path / "w.safetensors")
    safetensors_files.write(path, whole["model"], {"args": whole["args"], "classes": whole["classes"], "epoch": 0})
    check_every_option(small, capsys, path, "safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for words in (["--finetune=" + path], ["--eval", "--resume=" + path]):
        capsys.readouterr()
        assert small("--epochs=1", *words) == 2
        errors = capsys.readouterr().err
        assert "the package safetensors is not installed: pip install safetensors" in errors
        assert len(errors.splitlines()) == 1 and path in errors
