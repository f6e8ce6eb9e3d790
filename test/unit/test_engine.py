"""Whole runs: what they leave behind and refuse, and that a stopped run resumes to the same bits."""

import argparse
import itertools
import json
import os
import re
import time

import pytest
import torch
from small_runs import Stop, assert_equal_weights, weights

import engine
import main
from checkpoints import loading, store
from runtime.amp import Precision
from runtime.device import Device
from runtime.errors import UserError

CPU = Device("cpu")


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 7, 8])
def test_a_stopped_run_resumes_to_the_same_bits(small, monkeypatch, tmp_path, stop_at):
    """9 steps in 3 epochs; the run is cut off inside its `stop_at`-th step and started again."""
    assert small("--output-dir=%s" % (tmp_path / "whole")) == 0
    words = ["--output-dir=%s" % (tmp_path / "cut"), "--checkpoint-steps=1"]
    steps = [0]
    step = Precision.step

    def counted(*arguments):
        steps[0] += 1
        if steps[0] == stop_at + 1:
            raise Stop
        step(*arguments)

    monkeypatch.setattr(Precision, "step", counted)
    assert small(*words) == 1
    monkeypatch.setattr(Precision, "step", step)
    torch.manual_seed(12345)
    assert small(*words) == 0
    assert_equal_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    rows = [json.loads(line) for line in (tmp_path / "cut" / "log.txt").read_text().splitlines()]
    whole = [json.loads(line) for line in (tmp_path / "whole" / "log.txt").read_text().splitlines()]
    for row, want in zip(rows, whole):
        for key in ("epoch", "train_loss", "train_lr", "test_acc1", "test_loss", "ema_acc1"):
            assert row[key] == pytest.approx(want[key], rel=1e-6), key
    assert len(rows) == 3


def test_what_a_run_leaves_behind(small, tmp_path):
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out) == 0
    names = {"checkpoint.pth", "checkpoint.previous.pth", "best.pth", "train_0.log", "log.txt", "summary.json"}
    assert set(os.listdir(str(out))) == names | {"config.yaml", ".lock"}
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(summary) == sorted(
        [
            "model",
            "device",
            "precision",
            "world_size",
            "virtual_ranks",
            "batch_size",
            "train_images",
            "val_images",
            "classes",
            "epochs",
        ]
        + ["status", "epochs_done", "max_accuracy", "best_epoch", "best_by", "test_acc1", "test_acc5", "test_loss"]
        + ["test_balanced_acc", "test_macro_f1", "ema_acc1"]
        + ["train_loss", "min_train_loss", "images_per_second", "training_seconds", "checkpoint", "best"]
    )
    assert (summary["status"], summary["epochs_done"], summary["val_images"]) == ("complete", 3, 5)
    log = (out / "train_0.log").read_text()
    for pattern in (
        r"\* Acc@1 \d+\.\d{3} Acc@5 100\.000 loss \d+\.\d{3}",
        r"Accuracy of the network on the 5 test images: \d+\.\d%",
        r"Max accuracy: \d+\.\d\d%",
        r"Epoch: \[2\] FPS: \d+",
        r"Training time 0:00:\d\d",
        r"global batch +4 \(4 a rank\)",
        r"classes +2\n",
        r"Weights: .*best.pth",
    ):
        assert re.search(pattern, log), pattern
    loaded = loading.load(str(out / "checkpoint.pth"))
    assert loaded["classes"] == ["a", "b"] and loaded["epoch"] == 2 and loaded["args"]["lr"] == 0.1
    assert loaded["max_accuracy"] == summary["max_accuracy"]


def test_a_finished_run_is_left_as_it_is(small, tmp_path, capsys):
    words = ["--output-dir=%s" % (tmp_path / "out")]
    assert small(*words) == 0
    before = weights(tmp_path / "out")
    assert small(*words) == 0
    assert_equal_weights(weights(tmp_path / "out"), before)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "complete"
    assert len((tmp_path / "out" / "log.txt").read_text().splitlines()) == 3


def test_config_of_a_run_reproduces_it(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "a"), "--seed=7") == 0
    assert main.main(["--config=%s" % (tmp_path / "a" / "config.yaml"), "--output-dir=%s" % (tmp_path / "b")]) == 0
    assert_equal_weights(weights(tmp_path / "b"), weights(tmp_path / "a"))


def test_best_accuracy_survives_a_resume(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "out")) == 0
    path = str(tmp_path / "out" / "checkpoint.pth")
    loaded = loading.load(path)
    loaded["max_accuracy"], loaded["best_epoch"] = 100.0, 1
    torch.save(loaded, path)
    best = (tmp_path / "out" / "best.pth").read_bytes()
    assert small("--output-dir=%s" % (tmp_path / "out"), "--epochs=4") == 0
    assert (tmp_path / "out" / "best.pth").read_bytes() == best


def test_evaluation_adds_a_log_and_nothing_else(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out) == 0
    stamps = {name: os.stat(str(out / name)).st_mtime_ns for name in os.listdir(str(out))}
    best = loading.load(str(out / "best.pth"))
    assert small("--output-dir=%s" % out, "--eval", "--resume=%s" % out, "--eval-json=%s" % (tmp_path / "e")) == 0
    after = {name: os.stat(str(out / name)).st_mtime_ns for name in os.listdir(str(out))}
    assert after.pop("eval_0.log") and after == stamps
    result = json.loads((tmp_path / "e").read_text())
    assert result["acc1"] == best["max_accuracy"] and result["images"] == 5


def test_evaluation_of_an_authors_checkpoint(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "out")) == 0
    model = weights(tmp_path / "out")["model"]
    path = str(tmp_path / "authors.pth")
    torch.save({"model": model, "args": argparse.Namespace(model="smlpnet_tiny"), "epoch": 299}, path)
    assert small("--eval", "--resume=" + path) == 0


def test_checkpoints_of_the_ascend_port_keep_their_layout(small, tmp_path, capsys):
    assert small("--output-dir=%s" % (tmp_path / "out")) == 0
    path, model = str(tmp_path / "port.pth"), weights(tmp_path / "out")["model"]
    for args, layout in (
        (argparse.Namespace(model="smlpnet_tiny", npu=True), "reshape"),
        (argparse.Namespace(model="smlpnet_tiny"), "permute"),
    ):
        torch.save({"model": model, "args": args}, path)
        capsys.readouterr()
        assert small("--eval", "--resume=" + path) == 0
        assert re.search("token layout +" + layout, capsys.readouterr().out)
        out = str(tmp_path / layout)
        assert small("--output-dir=" + out, "--epochs=1", "--resume=" + path) == 0
        capsys.readouterr()
        assert small("--output-dir=" + out, "--epochs=2") == 0
        assert re.search("token layout +" + layout, capsys.readouterr().out)
        assert loading.load(os.path.join(out, store.LATEST))["args"]["token_layout"] == layout


def test_token_layout_comes_from_the_checkpoint(small, tmp_path):
    words = ["--eval", "--resume=%s" % (tmp_path / "out"), "--eval-json=%s" % (tmp_path / "e")]
    assert small("--output-dir=%s" % (tmp_path / "out"), "--token-layout=reshape") == 0
    losses = []
    for more in ([], ["--token-layout=reshape"], ["--token-layout=permute"]):
        assert small(*(words + more)) == 0
        losses.append(json.loads((tmp_path / "e").read_text())["loss"])
    assert losses[0] == losses[1]


def test_throughput(small, capsys, monkeypatch):
    """By a clock that nobody sets: the time of day goes back an hour at each look here."""
    monkeypatch.setattr(time, "time", itertools.count(10**9, -3600).__next__)
    assert small("--throughput") == 0
    assert re.search(r"throughput averaged with 30 times(.|\n)*batch_size \d throughput \d", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model=resnet50"], "--model resnet50 is unknown"),
        (["--input-size=100"], "--input-size 100: image_size 100 is not a multiple of 32"),
        (["--batch-size=0"], "--batch-size: must be at least 1"),
        (["--batch-size=3"], "must be even"),
        (["--npu"], "--device npu: "),
        (["--opt=nonsense"], "--opt nonsense"),
        (["--opt=adahessian"], "--opt adahessian needs second derivatives"),
        (["--aa=nonsense"], "--aa nonsense is not a policy"),
        (["--aa=rand-x9"], "--aa rand-x9 is not a policy"),
        (["--start-epoch=3"], "nothing to train: epoch 3 is not below --epochs 3"),
        (["--sched=nonsense"], "--sched nonsense"),
        (["--data-path=/nowhere"], "--data-path /nowhere: no such folder"),
        (["--resume=/nowhere"], "--resume /nowhere: no such file"),
        (["--eval"], "--eval needs --resume"),
        (["--output-dir=/proc/none/here"], "--output-dir /proc/none/here cannot be written to"),
    ],
)
def test_bad_input_is_one_line_and_status_2(small, capsys, words, message):
    assert small(*words) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_checkpoints_of_something_else(small, tmp_path, capsys):
    assert small("--output-dir=%s" % (tmp_path / "out")) == 0
    path = tmp_path / "out" / "checkpoint.pth"
    capsys.readouterr()
    for words, message in (
        (["--model=smlpnet_small"], "was made with --model smlpnet_tiny, not smlpnet_small"),
        (["--input-size=64"], "was made with --input-size 32, not 64"),
    ):
        assert small("--eval", "--resume=%s" % path, *words) == 2
        assert message in capsys.readouterr().err
    path.write_text("not a checkpoint")
    assert small("--eval", "--resume=%s" % path) == 2
    assert "is not a readable checkpoint" in capsys.readouterr().err


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(small, tmp_path, capsys, monkeypatch):
    words = ["--output-dir=%s" % (tmp_path / "out"), "--checkpoint-steps=1"]
    good = engine.Run.mix

    def poisoned(run, images, targets):
        return good(run, images * float("nan"), targets) if run.optimizer.state else good(run, images, targets)

    monkeypatch.setattr(engine.Run, "mix", poisoned)
    assert small(*words) == 1
    assert "the loss is not finite" in capsys.readouterr().err
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "out")["model"].values())


def test_bad_image_ends_a_run(small, tmp_path, capsys):
    (tmp_path / "data" / "val" / "a" / "0.png").write_bytes(b"broken")
    assert small() == 2
    assert "unreadable image: " in capsys.readouterr().err
    assert small("--skip-bad-images", "--output-dir=%s" % (tmp_path / "out")) == 0
    assert "skipped 1 unreadable images" in (tmp_path / "out" / "train_0.log").read_text()


def test_bad_input_leaves_the_folder_as_it_is(small, tmp_path, capsys):
    out = ["--output-dir=%s" % (tmp_path / "out"), "--existing-output=match"]
    assert small(*out) == 0
    before = sorted(os.listdir(str(tmp_path)))
    for words in (["--data-path=/nowhere"], ["--opt=nonsense"], ["--input-size=100"], ["--aa=nonsense"]):
        assert small(*(out + words)) == 2
    assert sorted(os.listdir(str(tmp_path))) == before
    assert "from %s" % (tmp_path / "out") in (small(*out), capsys.readouterr().out)[1]


def test_a_finished_run_resumed_elsewhere_has_its_weights_there(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "a")) == 0
    assert small("--output-dir=%s" % (tmp_path / "b"), "--resume=%s" % (tmp_path / "a")) == 0
    assert_equal_weights(weights(tmp_path / "b"), weights(tmp_path / "a"))
    assert_equal_weights(weights(tmp_path / "b", "best.pth"), weights(tmp_path / "a", "best.pth"))


def test_resuming_takes_this_run_s_settings(small, tmp_path, capsys):
    out = ["--output-dir=%s" % (tmp_path / "out")]
    assert small(*out) == 0
    assert small("--epochs=4", "--weight-decay=0.3", *out) == 0
    groups = loading.load(str(tmp_path / "out" / "checkpoint.pth"))["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3]
    assert small("--epochs=5", "--opt=sgd", *out) == 2
    assert "holds the state of --opt adamw, not of sgd" in capsys.readouterr().err


def test_no_readable_image_at_all(small, tmp_path, capsys):
    for name in ("a", "b"):
        for file in (tmp_path / "data" / "train" / name).iterdir():
            file.write_bytes(b"broken")
    assert small("--skip-bad-images") == 2
    assert "like all that could take its place" in capsys.readouterr().err


def test_user_error_names_one_rank():
    assert UserError("x", one_rank=True).one_rank and not UserError("x").one_rank
