"""benchmark.py parity: its statistics beside scipy's, its schedule beside main.py's, and a small comparison."""

import json

import pytest
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the comparison uses the benchmarks, which need torch 2.1", allow_module_level=True)

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import benchmark
from benchmarks import parity, parity_report, runs


def test_two_one_sided_tests():
    from scipy import stats

    differences = [0.1, -0.2, 0.05, 0.3, -0.1, 0.0, 0.15, -0.05]
    found = parity_report.equivalence(differences, 0.3)
    lower = stats.ttest_1samp(differences, -0.3, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.3, alternative="less").pvalue
    assert found["p"] == pytest.approx(max(lower, upper))
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval))
    assert found["equivalent"] and found["p"] < 0.05


@pytest.mark.parametrize(
    "differences",
    [[0.5, 0.6, 0.55, 0.5], [-0.5, -0.6, -0.55, -0.5], [2.0, -2.0, 1.0, -1.0], [0.3, 0.3, 0.3]],
)
def test_what_differs_or_scatters_is_not_equivalent(differences):
    found = parity_report.equivalence(differences, 0.3)
    assert not found["equivalent"] and found["p"] >= 0.05


def test_the_published_schedule_is_that_of_main():
    words = ["--model=smlpnet_parity", "--epochs=7"] + parity.RECIPE
    options, run = runs.make_run(["--data-path=unused"] + words, parity.CLASSES)
    for epoch in range(7):
        assert parity.published_rate(options, max(epoch - 1, 0)) == pytest.approx(run.learning_rate.set(epoch)), epoch


def test_a_comparison_that_is_resumed(tmp_path, capsys):
    words = ["parity", "--output=%s" % tmp_path, "--seeds=2", "--epochs=1", "--processes=1"]
    words += ["--ways", "baseline", "ours"]
    assert benchmark.main(words) == 0
    assert "4 of 4: " in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    expected = [("baseline", 0), ("baseline", 1), ("ours", 0), ("ours", 1)]
    assert sorted((row["way"], row["seed"]) for row in rows) == expected
    for row in rows:
        assert 0 < row["accuracy"][0] < 100 and 1 < row["loss"][0] < 4
    losses = {(row["way"], row["seed"]): row["loss"][0] for row in rows}
    for seed in (0, 1):  # the same weights, images and random numbers: what differs is rounding
        assert losses["ours", seed] == pytest.approx(losses["baseline", seed], abs=1e-4)
    results = json.loads((tmp_path / "parity.json").read_text())["results"]
    last = {(row["way"], row["seed"]): row["accuracy"][-1] for row in rows}
    means = sum(last["ours", seed] - last["baseline", seed] for seed in (0, 1)) / 2
    assert results["ours"]["difference"] == pytest.approx(means)
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    for row in rows:
        if row["way"] == "ours":
            row["accuracy"][-1] += 5.0 + row["seed"]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert benchmark.main(words) == 1  # no longer equivalent
    assert "%," not in capsys.readouterr().out.split("way")[0]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4
