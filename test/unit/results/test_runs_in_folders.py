"""Whole runs in folders that hold something already: what is resumed, refused, set aside and left as it is."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from folders import names_below
from image_folders import test_picture

from checkpoints import loading, store
from results import folder as output_folder
from results.record import Record


def contents(folder):
    """Return {name: bytes} of the files in a folder."""
    names = [name for name in os.listdir(str(folder)) if not name.startswith("index.")]  # lists of images
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


@pytest.mark.parametrize("mode", ["resume", "match", "rename"])
def test_a_data_set_that_is_the_output_folder_stays(small, tmp_path, capsys, mode):
    """Even where a run of other options has been there before: that is not renamed."""
    data = tmp_path / "data"
    before = names_below(str(data))
    words = ["--output-dir=%s" % data, "--existing-output=" + mode, "--epochs=1"]
    assert small(*words) == 0
    assert small(*words, "--seed=5", "--no-auto-resume") == 2
    err = capsys.readouterr().err
    assert "--data-path %s lies in --output-dir %s, which holds another run" % (data, data) in err
    assert len(err.splitlines()) == 1
    assert set(before) <= set(names_below(str(data))) and os.listdir(str(tmp_path)) == ["data"]


def test_a_folder_of_the_user_is_never_renamed(small, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("chapter 1")
    for seed, runs in ((0, 1), (0, 1), (1, 2)):
        words = ["--output-dir=%s" % work, "--existing-output=match", "--epochs=1", "--seed=%d" % seed]
        assert small(*words) == 0
        assert (work / "thesis.txt").read_text() == "chapter 1"
        assert len(list(tmp_path.glob("work*/best.pth"))) == runs


def test_a_run_that_is_refused_leaves_no_file_in_a_folder_of_the_user(small, tmp_path, capsys):
    work = tmp_path / "work"
    work.mkdir()
    for name in ("thesis.txt", "log.txt"):
        (work / name).write_text("the user's")
    before = contents(work)
    for more in ([], ["--eval"], ["--opt=nonsense"], ["--dry-run"]):
        assert small("--output-dir=%s" % work, *more) == 2
    assert contents(work) == before
    assert "it holds no run, but a file log.txt, which a run would overwrite" in capsys.readouterr().err


def test_finetune_is_obeyed_refused_or_reported(small, tmp_path, capsys):
    first, out = tmp_path / "first", tmp_path / "out"
    assert small("--output-dir=%s" % first, "--epochs=1") == 0
    out.mkdir()
    for name, status in (("best.pth", 2), ("pretrained.pth", 0)):  # best.pth would be overwritten
        shutil.copy(str(first / "best.pth"), str(out / name))
        words = ["--output-dir=%s" % out, "--finetune=%s" % (out / name)]
        capsys.readouterr()
        assert small(*words, "--epochs=1") == status
        if status:
            (out / name).unlink()
    assert "start         from the weights of %s" % (out / "pretrained.pth") in capsys.readouterr().out
    assert small(*words, "--epochs=2") == 0
    text = capsys.readouterr().out
    assert "start         from %s, of the run" % (out / "checkpoint.pth") in text and "no effect" not in text
    for path in (out, first):  # began with other weights, and with none
        capsys.readouterr()
        assert small("--output-dir=%s" % path, "--epochs=3", "--finetune=%s" % (first / "best.pth")) == 0
        report = "--finetune has no effect: the run in --output-dir %s, which did not begin with it, is resumed" % path
        assert capsys.readouterr().out.count(report) == 1
    assert "finetune: %s\n" % (out / "pretrained.pth") in (out / "config.yaml").read_text()
    assert "finetune: ''\n" in (first / "config.yaml").read_text()


def test_a_finished_run_that_is_started_again_stays_as_it_is(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out, "--lr=0.001") == 0
    before = contents(out)
    capsys.readouterr()
    assert small("--output-dir=%s" % out, "--lr=0.5", "--epochs=2", "--print-freq=3") == 0
    text = capsys.readouterr().out
    line = "nothing is left to train: the run in %s has done 3 epochs, and stays as it is" % out
    assert text.count(line + "; its options differ: --epochs 3, not 2, --lr 0.001, not 0.5") == 1
    assert small("--output-dir=%s" % out, "--lr=0.001") == 0
    assert line + "\n" in capsys.readouterr().out
    after = contents(out)
    assert after.pop("train_0.log").startswith(before.pop("train_0.log")) and after == before


def test_a_run_that_was_killed_after_its_last_epoch_is_completed(small, tmp_path):
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out) == 0
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(dict(summary, status="running")))
    (out / "log.txt").write_text("")
    assert small("--output-dir=%s" % out) == 0
    after = json.loads((out / "summary.json").read_text())
    assert (after["status"], after["epochs_done"]) == ("complete", 3)
    assert len((out / "log.txt").read_text().splitlines()) == 3


def test_accuracies_on_two_validation_sets_are_not_compared(small, tmp_path, capsys):
    """The best checkpoint on the first set is kept, and the first epoch on the second is the best so far."""
    out, data = tmp_path / "out", tmp_path / "data"
    assert small("--output-dir=%s" % out) == 0
    loaded = dict(loading.load(str(out / "checkpoint.pth")), max_accuracy=100.0, best_epoch=1)
    torch.save(loaded, str(out / "checkpoint.pth"))
    best = (out / "best.pth").read_bytes()
    assert small("--output-dir=%s" % out, "--epochs=4") == 0
    assert (out / "best.pth").read_bytes() == best and "val/" not in capsys.readouterr().out
    test_picture(32, 32).save(str(data / "val" / "a" / "new.png"))
    assert small("--output-dir=%s" % out, "--epochs=4") == 0  # nothing is left, so nothing is compared
    assert (out / "best.pth").read_bytes() == best
    for epochs, times in ((5, 1), (6, 0)):
        capsys.readouterr()
        assert small("--output-dir=%s" % out, "--epochs=%d" % epochs) == 0
        warning = "val/ is not the one that %s was evaluated on: the best accuracy" % (out / "checkpoint.pth")
        assert capsys.readouterr().out.count(warning) == times
    (kept,) = out.glob("best.pth.*")
    assert kept.read_bytes() == best
    assert loading.load(str(out / "best.pth"))["epoch"] >= 4
    assert loading.load(str(out / "checkpoint.pth"))["max_accuracy"] < 100


def test_the_best_on_another_validation_set_stays_in_its_own_folder(small, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    assert small("--output-dir=%s" % old) == 0
    test_picture(32, 32).save(str(tmp_path / "data" / "val" / "a" / "new.png"))
    before = contents(old)
    assert small("--output-dir=%s" % new, "--resume=%s" % old, "--epochs=4") == 0
    assert contents(old) == before and loading.load(str(new / "best.pth"))["epoch"] == 3


def in_epoch(monkeypatch, number, act):
    """Call `act()` once, before the results of epoch `number` are recorded."""
    add, acts = Record.add, [act]

    def disturbed(record, epoch, *more):
        if epoch == number and acts:
            acts.pop()()
        return add(record, epoch, *more)

    monkeypatch.setattr(Record, "add", disturbed)


def test_a_folder_that_is_deleted_during_the_run_is_not_full(small, tmp_path, capsys, monkeypatch):
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    in_epoch(monkeypatch, 1, lambda: os.rename(str(out), str(tmp_path / "gone")))
    assert small("--output-dir=%s" % out) == 1
    text, err = capsys.readouterr()
    assert "No such file or directory; the folder is gone, and the run continues" in text
    (saved,) = temporary.glob("*/checkpoint.pth")
    assert "it is in %s instead; resume with --resume=%s" % (saved, saved) in err and "make room" not in err
    assert small("--output-dir=%s" % out, "--resume=%s" % saved, "--epochs=4") == 0


@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_fails_everywhere_leaves_no_folder(small, tmp_path, capsys, monkeypatch, exists):
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    if exists:
        temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def refuse(path):
        raise OSError(28, "No space left on device")

    in_epoch(monkeypatch, 1, lambda: monkeypatch.setattr(store.os, "fsync", refuse))
    assert small("--output-dir=%s" % out) == 1
    err = capsys.readouterr().err
    assert "nor elsewhere" in err and "what came after the last checkpoint is lost" in err and "Traceback" not in err
    assert not exists or os.listdir(str(temporary)) == []


@pytest.mark.parametrize("fails_last", [True, False])
def test_a_best_checkpoint_that_cannot_be_written_is_a_failure(small, tmp_path, capsys, monkeypatch, fails_last):
    """Where best.pth alone cannot be replaced: a later save that needs no best.pth does not hide it."""
    out = tmp_path / "out"
    replace = os.replace
    accuracies = {0: 10.0, 1: 30.0, 2: 40.0 if fails_last else 20.0}
    add = Record.add

    def graded(record, epoch, stats, result, ema_result):
        return add(record, epoch, stats, dataclasses.replace(result, acc1=accuracies[epoch]), ema_result)

    def refuse(source, target):
        if os.path.basename(target) == "best.pth" and os.path.exists(target):
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(Record, "add", graded)
    monkeypatch.setattr(os, "replace", refuse)
    assert small("--output-dir=%s" % out) == 1
    err = capsys.readouterr().err
    assert "Device or resource busy" in err and len(err.splitlines()) == 1 and "make room" not in err
    assert loading.load(str(out / "best.pth"))["epoch"] == 0


def test_a_new_folder_that_another_run_has_taken_meanwhile_is_left_alone(small, tmp_path, capsys, monkeypatch):
    first, out = tmp_path / "first", tmp_path / "out"
    assert small("--output-dir=%s" % first) == 0
    prepare = output_folder.prepare

    def late(options, plan):
        os.rename(str(first), str(out))
        return prepare(options, plan)

    monkeypatch.setattr(output_folder, "prepare", late)
    before = contents(first)
    assert small("--output-dir=%s" % out) == 2
    assert "another run has begun there meanwhile: start this one again" in capsys.readouterr().err
    assert contents(out) == before
