"""The numbers of each class: --per-class, counted once more by hand."""

import errno
import json
import os
import warnings
from dataclasses import dataclass

import pytest
import torch
from bare_runs import CPU, Batches, run_of
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional

import engine
from checkpoints import loading, store
from options import parsing
from results import folder
from runtime.errors import UserError
from training import metrics


def by_hand(targets, predicted, classes):
    rows = [[0] * classes for _ in range(classes)]
    for target, guess in zip(targets.tolist(), predicted.tolist()):
        rows[target][guess] += 1
    return rows


@pytest.mark.parametrize("classes", [1, 3, 7])
def test_every_image_is_counted_once(classes):
    torch.manual_seed(classes)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, classes))
    images, targets = torch.randn(40, 3, 2, 2), torch.randint(0, classes, (40,))
    want = by_hand(targets, model(images).argmax(1), classes)
    for size in (1, 7, 40):
        counts = metrics.Counts(CPU.torch_device, classes, True)
        batches = Batches(zip(images.split(size), targets.split(size)))
        result = engine.evaluate(run_of(model), model, batches, counts)
        assert counts.confusion.tolist() == want
        assert result.acc1 == pytest.approx(100.0 * counts.confusion.diagonal().sum().item() / 40)
        again = engine.evaluate(run_of(model), model, batches, counts.like())  # without a confusion matrix, too
        assert again == result and counts.like().confusion is None


def test_images_whose_logits_are_not_finite_count_as_wrong():
    logits, targets = torch.eye(4), torch.arange(4)  # every image right
    for place, value in (((1, 1), float("nan")), ((2, 0), -float("inf")), ((3, 3), float("inf"))):
        logits[place] = value
    counts = metrics.Counts("cpu", 4, True)
    counts.update(logits, targets)
    result = counts.result()
    assert (result.acc1, result.acc5, result.images, result.not_finite) == (25.0, 25.0, 4, 3)
    assert (result.balanced_acc, result.macro_f1) == (25.0, 25.0)
    assert result.loss != result.loss and counts.confusion.sum() == 1
    assert result.claimed().acc1 != result.claimed().acc1 and result.claimed().not_finite == 3
    assert "not_finite" in result.as_dict() and "not_finite" not in result.metrics()
    nothing = metrics.Counts("cpu")
    nothing.update(torch.full((2, 4), float("nan")), targets[:2])
    assert nothing.result().acc1 != nothing.result().acc1 and nothing.result().not_finite == 2


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="meta tensors of an older torch lack these operators")
def test_counting_does_not_wait_for_the_device():
    targets = torch.zeros(4, dtype=torch.int64, device="meta")  # whose values nobody can ask for
    metrics.Counts("meta", 3, True).update(torch.zeros(4, 3, device="meta"), targets)
    with pytest.raises((RuntimeError, NotImplementedError)):
        targets.max().item()


@pytest.mark.parametrize("classes, images", [(2, 30), (7, 200), (20, 25)])
def test_the_metrics_of_skewed_classes_are_those_of_scikit_learn(classes, images):
    generator = torch.Generator().manual_seed(images)
    targets = (torch.rand(images, generator=generator) ** 3 * classes).long()
    logits = torch.randn(images, classes, generator=generator) + 2 * functional.one_hot(targets, classes)
    counts = metrics.Counts("cpu", classes)
    for part in range(0, images, 8):
        counts.update(logits[part : part + 8], targets[part : part + 8])
    true, predicted, result = targets.numpy(), logits.argmax(1).numpy(), counts.result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and have no image
        assert result.balanced_acc / 100 == pytest.approx(balanced_accuracy_score(true, predicted), abs=1e-9)
        assert result.macro_f1 / 100 == pytest.approx(f1_score(true, predicted, average="macro"), abs=1e-9)
    assert metrics.Counts("cpu").like().by_class is None


def test_summary():
    confusion = torch.tensor([[3, 1, 0], [2, 6, 2], [0, 0, 0]])
    summary = metrics.per_class_summary(confusion, ["a", "b", "c"])
    assert summary["per_class"] == [
        {"name": "a", "images": 4, "correct": 3, "acc1": 75.0},
        {"name": "b", "images": 10, "correct": 6, "acc1": 60.0},
        {"name": "c", "images": 0, "correct": 0, "acc1": None},
    ]
    pairs = [(pair["true"], pair["predicted"], pair["images"], pair["percent"]) for pair in summary["confused"]]
    assert pairs == [("b", "a", 2, 20.0), ("b", "c", 2, 20.0), ("a", "b", 1, 25.0)]
    assert summary["confusion"] == confusion.tolist()
    assert json.loads(json.dumps(summary)) == summary
    assert metrics.per_class_table(summary) == [
        "Lowest accuracy by class",
        "    b                 60.0% (6 of 10)",
        "    a                 75.0% (3 of 4)",
        "Most often confused",
        "    b predicted as a  20.0% (2 of 10)",
        "    b predicted as c  20.0% (2 of 10)",
        "    a predicted as b  25.0% (1 of 4)",
    ]
    perfect = metrics.per_class_summary(torch.tensor([[2, 0], [0, 0]]), ["a", "b"])
    assert metrics.per_class_table(perfect) == ["Every image is predicted as its own class"]


def test_of_many_classes_only_the_pairs_are_listed():
    confusion = torch.eye(101, dtype=torch.int64) * 5
    confusion[7, 100] = 3
    summary = metrics.per_class_summary(confusion, ["%d" % number for number in range(101)])
    assert summary["confusion"] is None and len(summary["per_class"]) == 101
    assert [(pair["true"], pair["predicted"], pair["images"]) for pair in summary["confused"]] == [("7", "100", 3)]


def test_names_stay_on_one_line_of_the_log():
    summary = metrics.per_class_summary(torch.tensor([[0, 1], [0, 1]]), ["new\nline", "\udcff"])
    lines = metrics.per_class_table(summary)
    assert all("\n" not in line for line in lines)
    assert lines[-1].startswith("    new\\nline predicted as \\xff ")


@pytest.mark.parametrize("words", [["--eval", "--resume=x"], ["--eval-json=x.json"], []])
def test_numbers_need_a_place(words):
    with pytest.raises(UserError, match="--per-class needs --output-dir"):
        parsing.parse(["--data-path=data", "--per-class"] + words)


def test_where_nothing_is_evaluated_it_says_so():
    words = ["--data-path=data", "--per-class", "--throughput", "--output-dir=out"]
    assert parsing.warnings_of(parsing.parse(words)) == ["--per-class has no effect: --throughput evaluates nothing"]


@dataclass(frozen=True)
class WithTop5Error(metrics.EvalResult):
    top5_error: float = 0.0


def test_a_new_metric_becomes_a_column(small, tmp_path, monkeypatch):
    """Whatever EvalResult has is in log.txt and in the result of --eval, with no other file changed."""
    result_of = metrics.Counts.result

    def result(counts):
        found = result_of(counts)
        return WithTop5Error(top5_error=100.0 - found.acc5, **found.as_dict())

    monkeypatch.setattr(metrics.Counts, "result", result)
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out, "--epochs=1") == 0
    row = json.loads((out / "log.txt").read_text())
    assert row["test_top5_error"] == row["ema_top5_error"] == 0.0 and row["test_acc5"] == 100.0
    assert small("--eval", "--resume=%s" % out, "--eval-json=%s" % (tmp_path / "e")) == 0
    assert json.loads((tmp_path / "e").read_text())["ema_top5_error"] == 0.0


def test_training_keeps_the_numbers_of_the_best_weights(small, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again.json"
    assert small("--output-dir=%s" % out, "--per-class") == 0
    written = json.loads((out / "evaluation.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    assert written["acc1"] == summary["max_accuracy"]
    assert [row["name"] for row in written["per_class"]] == ["a", "b"]
    assert [row["images"] for row in written["per_class"]] == [2, 3]
    os.unlink(str(out / "evaluation.json"))
    words = ["--eval", "--resume=%s" % out, "--eval-json=%s" % again]
    assert small("--output-dir=%s" % out, *words) == 0
    assert not (out / "evaluation.json").exists()  # only on request
    assert small("--output-dir=%s" % out, "--per-class", *words) == 0
    assert json.loads(again.read_text()) == json.loads((out / "evaluation.json").read_text()) == written


def test_a_place_that_cannot_be_written_is_named(small, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def refuse(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_json", refuse)
        assert small("--output-dir=%s" % out, "--per-class", "--epochs=1") == 0  # training continues without
        assert "--output-dir %s cannot be written" % (out / "evaluation.json") in capsys.readouterr().out
        assert small("--output-dir=%s" % out, "--per-class", "--eval", "--resume=%s" % out) == 2
        assert "main.py: error: --output-dir %s cannot be" % (out / "evaluation.json") in capsys.readouterr().err
    (out / "evaluation.json").mkdir()
    for words in (["--epochs=2"], ["--eval", "--resume=%s" % out]):
        assert small("--output-dir=%s" % out, "--per-class", *words) == 2
        assert "evaluation.json there is not a regular file" in capsys.readouterr().err


def nan_weights(source, target, *parts):
    """Write the checkpoint `source` with weights that are NaN."""
    loaded = loading.load(str(source))
    for part in parts:
        for value in loaded[part].values():
            if value.is_floating_point():
                value.fill_(float("nan"))
    store.save_as(loaded, str(target))


def strict(path):
    with open(str(path)) as file:
        return json.load(file, parse_constant=pytest.fail)


@pytest.mark.parametrize("parts", [("model",), ("model_ema",), ("model", "model_ema")], ids="+".join)
def test_weights_that_are_not_finite_have_no_accuracy(small, tmp_path, capsys, parts):
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=1") == 0
    nan_weights(tmp_path / "a" / "checkpoint.pth", tmp_path / "nan.pth", *parts)
    capsys.readouterr()
    words = ["--eval", "--resume=%s" % (tmp_path / "nan.pth"), "--eval-json=%s" % (tmp_path / "e.json"), "--per-class"]
    assert small(*words) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "the logits of 5 of 5 validation images are not finite (NaN or infinite), so no accuracy" in captured.err
    assert ("EMA: the logits" in captured.err) == ("model_ema" in parts)
    assert ("* Acc@1" in captured.out) == ("model" not in parts)
    assert ("EMA: Acc@1" in captured.out) == ("model_ema" not in parts)
    found = strict(tmp_path / "e.json")
    assert (found["acc1"] is None) == (found["loss"] is None) == ("model" in parts)
    assert (found["ema_acc1"] is None) == ("model_ema" in parts) and found["not_finite"] == 5 * ("model" in parts)


def test_a_run_whose_evaluation_is_not_finite_says_so_in_valid_files(small, tmp_path, capsys, monkeypatch):
    """Every image is read, and every file stays JSON; an epoch without an accuracy is not the best."""
    forward = engine.forward
    monkeypatch.setattr(engine, "forward", lambda *words: forward(*words) * float("nan"))
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=2", "--per-class") == 0
    out = capsys.readouterr().out
    assert (
        out.count("the logits of 5 of 5 validation images are not finite (NaN or infinite): they count as wrong") == 4
    )
    assert "Acc@1" not in out and not (tmp_path / "a" / "best.pth").exists()
    with open(str(tmp_path / "a" / "log.txt")) as file:
        rows = [json.loads(line, parse_constant=pytest.fail) for line in file]
    assert [(row["test_acc1"], row["test_loss"], row["ema_acc1"]) for row in rows] == 2 * [(None, None, None)]
    assert strict(tmp_path / "a" / "summary.json")["test_acc1"] is None
    assert small("--output-dir=%s" % (tmp_path / "a"), "--epochs=3") == 0  # it resumes
