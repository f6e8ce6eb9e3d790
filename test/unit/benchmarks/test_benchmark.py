"""benchmark.py: rates against a clock that is turned by hand, its command line, and its output files."""

import json
import subprocess
import sys
import types

import pytest
import torch
from paths import ROOT

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

import benchmark
from benchmarks import containers, parquet_copies, photos, report, start, step, timing
from benchmarks.report import Row
from pipeline.listing import list_images

ROWS = [
    Row("baseline", "speed", 10.0, "images/s", 1.0, 0.9, 1.1),
    Row("ours", "speed", 25.0, "images/s", 2.5),
    Row("alone", "time", 3.0, "s"),
]


class Clock:
    """Stands in for the module time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def worker(clock, name, images, seconds, calls):
    """A function that takes `seconds()` on the clock for `images` images."""

    def work():
        calls.append(name)
        clock.now += seconds()
        return images

    return work


def test_rates_of_peers(clock):
    calls = []
    peers = {
        "a": worker(clock, "a", 8, lambda: 2.0, calls),
        "b": worker(clock, "b", 8, lambda: 4.0, calls),
    }
    rates = timing.alternate(peers, rounds=3, seconds=7)
    assert rates == {"a": [4.0] * 3, "b": [2.0] * 3}
    warm_up, once = ["a"] * 4 + ["b"] * 2, ["a"] * 4 + ["b"] * 2
    assert calls == warm_up + once + once[::-1] + once


def test_work_that_takes_longer_than_a_round_is_done_once(clock):
    calls = []
    assert timing.alternate({"a": worker(clock, "a", 8, lambda: 100.0, calls)}, 2, 7) == {"a": [0.08, 0.08]}
    assert calls == ["a"] * 3


def test_a_machine_that_becomes_slower_does_not_change_the_ratio(clock):
    peers = {
        "baseline": worker(clock, "baseline", 1, lambda: 2.0 if clock.now < 100 else 8.0, []),
        "ours": worker(clock, "ours", 1, lambda: 1.0 if clock.now < 100 else 4.0, []),
    }
    found = timing.summarize(timing.alternate(peers, rounds=9, seconds=8), "baseline")
    assert found["baseline"].ratio == 1.0
    assert found["ours"].ratio == pytest.approx(2.0)
    assert found["ours"].images_per_second == pytest.approx(2 * found["baseline"].images_per_second)


def test_quartiles_are_of_the_ratios():
    rates = {"baseline": [1.0, 2.0, 4.0, 8.0, 16.0], "ours": [1.0, 4.0, 12.0, 32.0, 80.0]}
    assert timing.summarize(rates, "baseline")["ours"] == timing.Rate(12.0, ratio=3.0, low=2.0, high=4.0)


@pytest.fixture
def command(monkeypatch):
    """A benchmark called "step" that measures nothing and returns ROWS."""
    module = types.ModuleType("benchmarks.step")
    module.run = lambda options: ROWS
    monkeypatch.setitem(sys.modules, "benchmarks.step", module)


def test_a_table_under_the_hardware(command, capsys):
    assert benchmark.main(["step"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step: benchmark.py step"
    assert "usable cores" in lines[1]
    assert "torch %s" % torch.__version__.split("+")[0] in lines[3]
    assert lines[6].split() == ["baseline", "speed", "10", "images/s", "1.000", "0.900", "to", "1.100"]
    assert lines[8].split() == ["alone", "time", "3", "s", "-"]


def test_output_is_a_json_file_and_a_chart(command, tmp_path):
    pytest.importorskip("matplotlib")
    assert benchmark.main(["step", "--output", str(tmp_path / "new"), "--rounds=2"]) == 0
    record = json.loads((tmp_path / "new" / "step.json").read_text())
    keys = {"setting", "measure", "value", "unit", "ratio"}
    assert [set(row) for row in record["rows"]] == [keys | {"low", "high"}, keys, keys]
    assert [Row(**row) for row in record["rows"]] == ROWS
    assert record["command"] == "benchmark.py step --output %s --rounds=2" % (tmp_path / "new")
    assert set(record) == {"benchmark", "date", "command", "hardware", "rows"}
    assert (tmp_path / "new" / "step.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_json_file_is_written(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert benchmark.main(["step", "--output", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step.json"]
    assert "no chart: install matplotlib (python -m pip install matplotlib)" in capsys.readouterr().out


def test_rows_without_a_ratio_give_no_chart(tmp_path):
    report.draw("step", report.hardware(), ROWS[2:], str(tmp_path / "step.png"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, text",
    [
        ([], "no command is given; choose from step, infer"),
        (["nothing"], "unknown command nothing; choose from " + ", ".join(benchmark.COMMANDS)),
        (["ledgr"], "unknown command ledgr; choose from %s; did you mean ledger?" % ", ".join(benchmark.COMMANDS)),
        (["step", "--round", "1"], "unknown option --round; did you mean --rounds?"),
        (["step", "--rounds", "x"], "--rounds: 'x' is not an integer"),
        (["step", "--rounds", "0"], "--rounds: must be at least 1"),
        (["e2e", "--steps", "1"], "--steps: must be at least 2"),
        (["parity", "--seeds", "1", "--output=out"], "--seeds: must be at least 2"),
        (["parity", "--seeds", "2"], "--output is missing: name the folder for runs.jsonl"),
        (["step", "--output", "/proc/none"], "--output /proc/none: No such file or directory"),
        (["ledger", "--model", "other"], "--model: invalid choice: 'other'"),
        (["ledger", "--input-size", "33"], "--input-size 33: image_size 33 is not a multiple of 32"),
        (["ledger", "--batch-size", "0"], "--batch-size: must be at least 1"),
    ],
)
def test_bad_input_ends_with_one_line(command, words, text, capsys):
    assert benchmark.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: error: " + text)
    assert error.count("\n") == 1


def test_the_overview_lists_every_command(capsys):
    assert benchmark.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all("\n  %-8s%s" % (name, row[0]) in text for name, row in benchmark.COMMANDS.items())


@pytest.mark.parametrize("words", [[], *[[name] for name in benchmark.COMMANDS]])
def test_help_does_not_import_torch(words):
    code = "import sys, benchmark; status = benchmark.main(%r); sys.exit(status or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code % [*words, "--help"]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: benchmark.py ")


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert benchmark.main(["step"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: error: step: a package that it needs is not installed: ")
    assert error.count("\n") == 1


def test_a_benchmark_that_is_interrupted(command, monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["benchmarks.step"], "run", interrupt)
    assert benchmark.main(["step"]) == 130
    assert capsys.readouterr().err == "benchmark.py: interrupted; nothing is written\n"


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """A folder of 12 photographs, 4 of them for validation."""
    root = str(tmp_path_factory.mktemp("photos"))
    photos.write_photos(root, train=8, val=4, classes=2)
    return root


@pytest.mark.parametrize(
    "words, baseline",
    [
        (
            ["step", "--device=cpu", "--precision=float32", "--batch-size=2", "--input-size=32"],
            "train float32 baseline",
        ),
        (["infer", "--model=shiftvit_r4_tiny", "--input-size=32", "--batch-sizes=2"], "torch eager, batch 2"),
        (["data", "--batch-size=4", "--input-size=32", "--num-workers=0"], "train on one core: published"),
        (["e2e", "--device=cpu", "--batch-size=4", "--input-size=32", "--steps=2", "--seconds=0"], "steps alone"),
        (["start", "--files=2000"], "torchvision ImageFolder"),
        (["scale", "--processes=1", "--batch-size=2", "--input-size=32", "--steps=1", "--rounds=1"], "processes: 1"),
    ],
)
def test_each_command_measures_and_prints(words, baseline, photo_folder, tmp_path, capsys):
    if words[0] in ("step", "infer", "data"):
        words += ["--rounds=1", "--seconds=0"]
    if words[0] in ("data", "e2e"):
        words += ["--data-path=" + photo_folder]
    threads = torch.get_num_threads()
    try:
        assert benchmark.main(words + ["--output=%s" % tmp_path]) == 0, capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / (words[0] + ".json")).read_text())["rows"]
    assert next(row["ratio"] for row in rows if row["setting"].endswith(baseline)) == pytest.approx(1)
    assert all(row["value"] > 0 for row in rows if row["unit"] != "%")
    assert len(rows) > 1 and baseline in capsys.readouterr().out


def test_a_profile_counts_the_time_of_an_accelerator_once():
    """The operator that starts a kernel, and a range of the optimizer, report the kernel's time, too."""
    host, device = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA

    def event(key, kind, on_device, is_user_annotation=False):
        times = {"self_device_time_total": on_device, "self_cpu_time_total": 1.0}
        return types.SimpleNamespace(key=key, device_type=kind, is_user_annotation=is_user_annotation, **times)

    kernel = "kernel<%s>" % (999 * "x")
    events = [
        event("aten::mm", host, 30.0),
        event(kernel, device, 30.0),
        event("Memcpy DtoD", device, 5.0),
        event("Optimizer.step#AdamW.step", device, 30.0, is_user_annotation=True),
    ]
    assert step.profiled_times(events, on_accelerator=True) == [(30.0, kernel[:100]), (5.0, "Memcpy DtoD")]
    assert step.profiled_times(events[:1], on_accelerator=False) == [(1.0, "aten::mm")]


def test_a_profile_on_a_cpu_names_operators(tmp_path, capsys):
    words = ["step", "--profile", "--device=cpu", "--precision=float32", "--batch-size=2", "--input-size=32"]
    assert benchmark.main([*words, "--output=%s" % tmp_path]) == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert "aten::mm" in [row["setting"] for row in rows]
    assert 0.5 < sum(row["ratio"] for row in rows) <= 1


def test_the_ledger_as_a_program_of_its_own():
    words = [sys.executable, benchmark.__file__, "ledger", "--mode=eval", "--batch-size=2", "--input-size=32"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plain: gelu" in done.stdout


def test_containers_are_compared_with_the_folder(photo_folder, tmp_path, capsys):
    words = ["data", "--batch-size=4", "--input-size=32", "--num-workers=0", "--rounds=1", "--seconds=0"]
    threads = torch.get_num_threads()
    try:
        assert benchmark.main([*words, "--data-path=" + photo_folder, "--output=%s" % tmp_path]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "data.json").read_text())["rows"]
    found = [row for row in rows if row["setting"].startswith("eval on one core, exact, by container: ")]
    forms = ["folder", "tar", "shards", "zip"] + ([] if parquet_copies.missing() else ["parquet"])
    assert [row["setting"].split(": ")[1] for row in found] == forms
    assert found[0]["ratio"] == 1 and all(row["unit"] == "images/s" for row in found)


def test_the_same_images_are_in_each_container(photo_folder, tmp_path):
    images = list_images(photo_folder + "/train", ["class0", "class1"])
    for most, count in ((3, 3), (100, 8)):
        folder = tmp_path / str(most)
        folder.mkdir()
        packed = containers.pack(images, most, str(folder))
        contents = []
        for found in packed.values():
            assert len(found) == count and found.classes == images.classes
            contents.append([(found.reader().open(key).read(), target) for key, target in found])
        assert all(content == contents[0] for content in contents)


def test_a_tar_is_listed_beside_tarfile(tmp_path):
    rows = start.measure_tar(str(tmp_path / "a.tar"), 2000)
    assert [row.setting for row in rows] == [
        "a tar of 2,000 members: tarfile",
        "a tar of 2,000 members: first start, headers read",
    ]
    assert rows[0].ratio == 1 and all(row.unit == "us" and row.value > 0 for row in rows)
