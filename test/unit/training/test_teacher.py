"""Distillation: the published loss, its options, the teacher and what is refused."""

import os
import re

import pytest
import torch
from command_lines import parse
from hostile import harms
from recipe import golden, normal
from small_runs import assert_equal_weights, cut_off, is_equal, weights

from checkpoints import loading
from runtime.compat import create_model
from runtime.errors import UserError
from training import build, losses, teacher

BASES = {"cross_entropy": (False, 0.0), "label_smoothing_0_1": (False, 0.1), "soft_target": (True, 0.1)}


class ConstantTeacher(torch.nn.Module):
    """A teacher with the same logits for all images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images):
        return self.logits * 1


@pytest.mark.parametrize("case", golden("components")["distillation_loss"]["values"], ids=str)
def test_distillation_is_the_published_one(case):
    own, for_teacher, advice = (
        2 * normal(name, (4, 10)) for name in ("distill_outputs", "distill_outputs_kd", "distill_teacher")
    )
    targets = torch.tensor([1, 3, 5, 7])
    if case["base"] == "soft_target":
        targets = torch.softmax(normal("distill_soft_labels", (4, 10)), dim=1)
    base = losses.build_criterion(*BASES[case["base"]])
    if case["type"] == "none":
        assert base(None, own, targets).item() == pytest.approx(case["loss"], abs=2e-6)
        return
    own.requires_grad_(True)
    criterion = losses.Distillation(base, ConstantTeacher(advice), case["type"], case["alpha"], case["tau"])
    assert criterion(None, (own, for_teacher), targets).item() == pytest.approx(case["loss"], abs=2e-6)
    loss = criterion(None, own, targets)
    assert loss == criterion(None, (own, own), targets)  # the one output of our models serves both
    loss.backward()
    assert own.grad.abs().sum() > 0 and criterion.teacher.logits.grad is None


@pytest.fixture
def taught(small, tmp_path):
    """(small, the words of a distillation from a trained teacher)."""
    assert small("--output-dir=%s" % (tmp_path / "teacher"), "--epochs=1", "--seed=9") == 0
    words = ["--teacher-model=smlpnet_tiny", "--teacher-path=%s" % (tmp_path / "teacher"), "--epochs=2"]
    return small, words


def test_each_option_of_distillation_has_its_effect(taught, tmp_path):
    small, words = taught
    variants = {
        "none": [],
        "alpha 0": ["--distillation-type=soft", "--distillation-alpha=0"],
        "soft": ["--distillation-type=soft"],
        "alpha": ["--distillation-type=soft", "--distillation-alpha=0.9"],
        "tau": ["--distillation-type=soft", "--distillation-tau=3"],
        "hard": ["--distillation-type=hard"],
    }
    states = {}
    for name, more in variants.items():
        assert small("--output-dir=%s" % (tmp_path / name), *words, *more) == 0
        states[name] = weights(tmp_path / name)["model"]
    assert is_equal(states.pop("alpha 0"), states["none"])
    names = sorted(states)
    for position, name in enumerate(names):
        assert not any(is_equal(states[name], states[other]) for other in names[position + 1 :]), name
    log = (tmp_path / "hard" / "train_0.log").read_text()
    assert re.search("teacher +smlpnet_tiny, hard", log)
    assert "--teacher-path has no effect" in (tmp_path / "none" / "train_0.log").read_text()
    loaded = loading.load(str(tmp_path / "hard" / "checkpoint.pth"))
    assert not any("teacher" in name for name in loaded["model"])


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_distillation_resumes_to_the_same_bits(taught, monkeypatch, tmp_path, kind):
    small, words = taught
    words = [*words, "--distillation-type=" + kind, "--virtual-ranks=2", "--batch-size=2"]
    assert small("--output-dir=%s" % (tmp_path / "whole"), *words) == 0
    cut_off(small, monkeypatch, 5, "--output-dir=%s" % (tmp_path / "cut"), *words)
    assert_equal_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_the_teacher_sees_the_mixed_images_in_evaluation_mode(taught, monkeypatch):
    small, words = taught
    seen, mix = [], build.Run.mix

    class Watches(losses.Distillation):
        def forward(self, inputs, outputs, targets):
            assert not self.teacher.training and not any(value.requires_grad for value in self.teacher.parameters())
            seen.append((inputs.clone(), targets))
            return super().forward(inputs, outputs, targets)

    mixed = []

    def noted(run, images, targets):
        mixed.append(mix(run, images, targets))
        return mixed[-1]

    monkeypatch.setattr(losses, "Distillation", Watches)
    monkeypatch.setattr(build.Run, "mix", noted)
    assert small(*words, "--distillation-type=soft", "--epochs=1") == 0
    assert len(seen) == 3 and all(torch.equal(got[0], want[0]) for got, want in zip(seen, mixed))


def test_a_teacher_whose_output_is_not_finite_ends_the_run(taught, tmp_path, capsys):
    small, words = taught
    path = str(tmp_path / "teacher" / "best.pth")
    loaded = loading.load(path)
    loaded["model"]["mlp_head.0.bias"].fill_(float("nan"))
    torch.save(loaded, path)
    capsys.readouterr()
    assert small(*words, "--distillation-type=soft") == 1
    assert "the loss is not finite" in capsys.readouterr().err


def test_teachers_that_are_refused(taught, tmp_path, capsys):
    small, words = taught
    words, loaded = [*words, "--distillation-type=soft"], loading.load(str(tmp_path / "teacher" / "best.pth"))
    other, harm = str(tmp_path / "other.pth"), str(tmp_path / "harm.pth")
    loaded["model"]["mlp_head.0.weight"] = torch.zeros(7, 128)
    torch.save(loaded, other)
    torch.save({"model": harms(tmp_path)["system"]}, harm)
    for more, message in (
        (["--teacher-path="], "--distillation-type soft needs --teacher-path"),
        (["--teacher-path=/nowhere"], "--teacher-path /nowhere: no such file"),
        (["--teacher-path=" + str(tmp_path / "data")], "the folder holds neither best.pth nor checkpoint.pth"),
        (["--teacher-path=http://x/y.pth"], "http://x/y.pth: checkpoints are fetched by https only"),
        (["--teacher-path=https://x/y.pth"], "https://x/y.pth: append #sha256="),
        (["--teacher-path=" + other], "the teacher knows 7 classes, the images have 2"),
        (["--teacher-path=" + harm], "which a checkpoint may not"),
        (["--teacher-model=smlpnet_small"], "is a --teacher-model smlpnet_tiny, not smlpnet_small"),
        (["--teacher-model=nonsense"], "--teacher-model nonsense is neither"),
        (["--teacher-model=hf-hub:timm/resnet18"], "--teacher-model hf-hub:timm/resnet18 is neither"),
        (["--input-size=64"], "is the checkpoint of another model, image size or number of classes"),
    ):
        capsys.readouterr()
        assert small(*words, *more) == 2, more
        errors = capsys.readouterr().err
        assert message in errors and len(errors.splitlines()) == 1
    assert not os.path.exists(str(tmp_path / "harm"))
    assert small(*words, "--teacher-path=/nowhere", "--eval", "--resume=%s" % (tmp_path / "teacher")) == 0


def test_a_teacher_of_timm(tmp_path):
    def load(name, *words):
        path = str(tmp_path / (name + ".pth"))
        torch.manual_seed(1)
        model = create_model(name, num_classes=3).eval()
        torch.save(model.state_dict(), path)
        chosen = parse("--input-size=32", "--teacher-model=" + name, "--teacher-path=" + path, *words)
        return model, teacher.load_teacher(chosen, torch.device("cpu"), "abc", create_model)

    model, loaded = load("resnet18")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images)) and not loaded.training
    with pytest.raises(UserError, match="--teacher-model vit_small_patch16_224 does not take images of 32 pixels"):
        load("vit_small_patch16_224")


def test_a_teacher_keeps_its_token_layout(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "t"), "--epochs=1", "--token-layout=reshape") == 0
    words = ["--teacher-model=smlpnet_tiny", "--teacher-path=%s" % (tmp_path / "t")]
    made = teacher.load_teacher(parse("--input-size=32", *words), torch.device("cpu"), "ab", build.create_model)
    assert made.token_layout == "reshape"


def test_a_teacher_is_matched_by_the_names_of_its_classes(taught, tmp_path, caplog):
    _, words = taught
    path = str(tmp_path / "t.pth")
    whole = loading.load(str(tmp_path / "teacher" / "best.pth"))
    chosen = parse("--input-size=32", "--teacher-model=smlpnet_tiny", "--teacher-path=" + path)
    images = torch.randn(2, 3, 32, 32)

    def logits(recorded, classes):
        torch.save(dict(whole, classes=recorded), path)
        return teacher.load_teacher(chosen, torch.device("cpu"), classes, build.create_model)(images)

    caplog.set_level("INFO")
    straight = logits(["a", "b"], ["a", "b"])
    assert torch.equal(logits(None, ["x", "y"]), straight) and "reordered" not in caplog.text
    assert torch.equal(logits(["b", "a"], ["a", "b"]), straight[:, [1, 0]]) and "reordered" in caplog.text
    for recorded in (["a", "c"], ["a", "a"]):
        with pytest.raises(UserError, match="the teacher's classes have other names than those of the images"):
            logits(recorded, ["a", "b"])
