"""--best-by: which epoch's weights best.pth holds."""

import json
import math

import pytest

from checkpoints import loading
from results import best
from runtime.names import BEST_BY
from training import metrics

ROWS = [
    {"epoch": 0, "test_acc1": 60.0, "test_balanced_acc": 40.0, "test_macro_f1": 39.0, "test_loss": 1.2},
    {"epoch": 1, "test_acc1": 70.0, "test_balanced_acc": 39.0, "test_macro_f1": 41.0, "test_loss": 1.3},
    {"epoch": 2, "test_acc1": 65.0, "test_balanced_acc": 44.0, "test_macro_f1": 41.0, "test_loss": 1.1},
    {"epoch": 3, "test_acc1": 70.0, "test_balanced_acc": 43.0, "test_macro_f1": 40.0, "test_loss": math.nan},
]


def test_each_choice_is_a_metric_of_an_evaluation():
    assert tuple(best.METRICS) == BEST_BY
    result = metrics.EvalResult(1.0, 1.0, 1.0, 1, 0, 0, 1.0, 1.0)
    assert {column for column, _ in best.METRICS.values()} <= {"test_" + name for name in result.metrics()}


@pytest.mark.parametrize("best_by, epoch", [("acc1", 1), ("balanced", 2), ("f1", 1), ("loss", 2)])
def test_the_first_of_equals_is_the_best_and_nan_never_is(best_by, epoch):
    found = best.Best()
    for row in ROWS:
        found = best.better(found, row, best_by)
    assert (found.epoch, found.accuracy) == (epoch, ROWS[epoch]["test_acc1"])


def test_a_checkpoint_tells_the_best_value_by_another_metric_too():
    loaded = {"best_epoch": 1, "max_accuracy": 70.0, "history": ROWS}
    assert best.recorded(loaded, "acc1").value == 70.0
    assert best.recorded(loaded, "loss") == best.Best(1, 70.0, -1.3)
    older = [{"epoch": row["epoch"], "test_acc1": row["test_acc1"]} for row in ROWS]
    assert best.recorded(dict(loaded, history=older), "f1") == best.Best(1, 70.0, -math.inf)


def test_a_resumed_run_keeps_its_best_epoch_by_the_loss(small, tmp_path, monkeypatch):
    losses = iter([1.0, 0.5, 0.7, 0.4])
    result_of = metrics.Counts.result

    def result(counts):
        found = result_of(counts)
        return metrics.EvalResult(**dict(found.as_dict(), loss=next(losses), acc1=50.0))

    monkeypatch.setattr(metrics.Counts, "result", result)
    words = ["--output-dir=%s" % (tmp_path / "out"), "--best-by=loss", "--no-model-ema"]
    for epochs, epoch in ((2, 1), (3, 1), (4, 3)):
        assert small(*words, "--epochs=%d" % epochs) == 0
        assert loading.load(str(tmp_path / "out" / "best.pth"))["epoch"] == epoch
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert (summary["best_epoch"], summary["best_by"]) == (epoch, "loss")
