"""tools/report.py: the page shows the contents of a run's folder, complete or damaged, and nothing else changes."""

import base64
import io
import json
import os
import re
import subprocess
import sys

import pytest
from paths import ROOT
from PIL import Image
from report_pages import HOSTILE, evaluation, page_of, write_run

from results import curves
from results.reader import RunFolder
from tools import report


@pytest.fixture
def run_report(capsys):
    """Return run_report(words...) -> (exit status, stdout, stderr); `page_of` reads the page."""
    pytest.importorskip("matplotlib")

    def run(*words):
        status = report.main([str(word) for word in words])
        return (status,) + tuple(capsys.readouterr())

    return run


def test_a_real_run(run_report, small, tmp_path):
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out, "--per-class") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    status, output, errors = run_report(out)
    assert (status, errors) == (0, "")
    assert output[-len("report.html\n") :] == "report.html\n" and "wrote %s" % (out / "curves.png") in output
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name in before} == before
    page = page_of(out)
    for line in (out / "log.txt").read_text().splitlines():
        row = json.loads(line)
        cells = next(cells for cells in page.rows if cells[0] == str(row["epoch"]) and len(cells) > 8)
        assert cells[1:4] == ["%.4f" % row["train_loss"], "%.4f" % row["test_loss"], "%.2f" % row["test_acc1"]]
    summary = json.loads((out / "summary.json").read_text())
    assert "%.2f %% in epoch %d" % (summary["max_accuracy"], summary["best_epoch"]) in page.text
    assert summary["device"] in page.text and re.search("torch [0-9.]+", page.text)
    assert ["--warmup-epochs", "1", "20"] in page.rows  # beside the default
    (address,) = page.addresses
    picture = base64.b64decode(address.partition("base64,")[2])
    assert picture == (out / "curves.png").read_bytes()
    assert min(Image.open(io.BytesIO(picture)).size) > 500
    assert run_report(out)[0] == 0  # its own files are replaced


def test_the_curves_are_the_rows(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    run = RunFolder(write_run(tmp_path / "run"))
    figure, axis = pyplot.subplots()
    (panel,) = [panel for panel in curves.PANELS if panel.marks_best]
    curves.draw_panel(axis, panel, [run, run])
    drawn = [line.get_xydata().tolist() for line in axis.lines]
    best = [[1.0, 71.5]]
    assert drawn == 2 * [[[0, 40.0], [1, 71.5], [2, 70.0]], [[0, 10.0], [1, 50.0], [2, 73.0]], best]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["weights", "EMA"]
    pyplot.close(figure)


def test_hostile_names_are_text(run_report, tmp_path):
    names = [HOSTILE, "'\"><img src=x onerror=alert(1)>", "a&amp;b", "new\nline \udcff"]
    first = write_run(tmp_path / "a $x^$ <b> _{\\frac", names, data_path="'<script>alert(2)</script>'")
    second = write_run(tmp_path / "_b", names)
    assert run_report(first, second, "--output", tmp_path / "out")[0] == 0
    page = page_of(tmp_path / "out")
    assert "script" not in page.tags and page.tags.count("img") == 1 and not page.handlers
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    for name in (HOSTILE, names[1], "a&amp;b", "new\\nline \\xff", "<script>alert(2)</script>"):
        assert name in page.texts, name


@pytest.mark.parametrize(
    "name, content, note",
    [
        ("log.txt", '{"epoch": 0, "test_acc1": 12.5}\n{"epoch": 1, "tr', "log.txt: 1 damaged line(s) are left out"),
        ("log.txt", "", "no epoch has been finished"),
        ("log.txt", "[1]\n\x00\xff\n" + 2000 * "[" + '\n{"epoch": true}\n', "4 damaged line(s)"),
        ("summary.json", '{"model": "smlp', "summary.json is damaged"),
        ("summary.json", "[]", "summary.json is damaged"),
        ("config.yaml", "a: [", "config.yaml is damaged"),
        ("evaluation.json", '{"per_class": [{"name": 3}]}', "it is not an output of --per-class"),
        ("evaluation.json", '{"per_class": [], "confused": [], "confusion": [[1]]}', "it is not an output of"),
        ("evaluation.json", "nul", "evaluation.json is damaged"),
    ],
)
def test_damage_is_reported_and_the_rest_is_shown(run_report, tmp_path, name, content, note):
    folder = tmp_path / "run"
    write_run(folder)
    (folder / name).write_text(content)
    status, _, errors = run_report(folder)
    assert status == 0 and note in errors
    page = page_of(folder)
    assert note in page.text and "Curves" in page.text
    if name != "log.txt":
        assert "71.50 % in epoch 1" in page.text


def test_odd_values_are_no_failure(run_report, tmp_path):
    folder = tmp_path / "run"
    write_run(folder)
    rows = [{"epoch": 0, "train_loss": "x", "test_acc1": None, "seconds": 10**400}, {"epoch": 3, "train_lr": [1]}]
    rows += [{"epoch": 4, "test_acc1": float("inf"), "train_loss": True, "train_images_skipped": 2}]
    (folder / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"epochs": {}, "training_seconds": "long", "status": [], "images_per_second": 10**400, "classes": [None]}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("lr: 0x%s\nseed: [1, {}]\n" % (9000 * "f"))
    found = evaluation(["cat", "dog"])
    found["per_class"][0]["images"] = found["confusion"][0][1] = float("inf")
    found["per_class"][1]["correct"] = found["confusion"][1][1] = float("nan")
    (folder / "evaluation.json").write_text(json.dumps(dict(found, acc1=[], images=None)))
    assert run_report(folder)[0] == 0
    assert ["4", "-", "-", "-", "-", "2"] in page_of(folder).rows


@pytest.mark.parametrize("kept", ["log.txt", "summary.json", "config.yaml"])
def test_an_unfinished_run(run_report, tmp_path, kept):
    folder = tmp_path / "run"
    write_run(folder)
    for path in folder.iterdir():
        if path.name != kept:
            path.unlink()
    assert run_report(folder)[0] == 0
    assert (folder / "curves.png").exists()


def test_what_is_no_run_is_refused(run_report, tmp_path):
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "run")
    for words, message in (
        (["nowhere"], "nowhere: no such folder"),
        ([tmp_path / "empty"], "holds no run: there is no log.txt"),
        ([run, run], "--output is missing"),
        ([run, "--output", os.path.join(run, "log.txt")], "log.txt cannot be written to"),
    ):
        status, output, errors = run_report(*words)
        assert (status, output) == (2, "") and message in errors and len(errors.splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("name", ["report.html", "curves.png"])
def test_the_files_of_others_stay(run_report, tmp_path, name):
    folder = tmp_path / "run"
    write_run(folder)
    (folder / name).write_text("mine")
    status, _, errors = run_report(folder)
    assert status == 2 and "%s is not a report of this program" % (folder / name) in errors
    assert (folder / name).read_text() == "mine" and len(list(folder.iterdir())) == 5


def test_a_failure_leaves_no_half_a_file(run_report, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write_run(folder)
    before = sorted(path.name for path in folder.iterdir())

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, _, errors = run_report(folder)
    assert status == 2 and "No space left on device" in errors
    assert sorted(path.name for path in folder.iterdir()) == before


def test_options_that_differ_are_marked(run_report, tmp_path):
    runs = [write_run(tmp_path / "a", lr=0.25), write_run(tmp_path / "b", lr=0.5, aa="''")]
    assert run_report(*runs + ["--output", tmp_path / "new" / "out"])[0] == 0
    page = page_of(tmp_path / "new" / "out")
    marked = {cells[0]: cells[1:] for cells, is_marked in zip(page.rows, page.marked) if is_marked}
    assert marked["--lr"] == ["0.25", "0.5"] and marked["--aa"] == ["(missing)", "(none)"]
    assert "--epochs" not in marked and ["--epochs", "3", "3"] in page.rows


def test_many_classes_have_no_matrix(run_report, tmp_path):
    folder = tmp_path / "run"
    write_run(folder, ["class %d" % number for number in range(101)])
    found = dict(json.loads((folder / "evaluation.json").read_text()), confusion=None)
    (folder / "evaluation.json").write_text(json.dumps(found))
    assert run_report(folder)[0] == 0
    page = page_of(folder)
    assert "Confusion matrix" not in page.text and ["class 100", "50.0", "1", "2"] in page.rows


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([write_run(tmp_path / "run")]) == 2
    assert "python -m pip install matplotlib" in capsys.readouterr().err


def test_without_jinja2_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert report.main([write_run(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == "report.py: error: the report needs jinja2: python -m pip install jinja2\n"


@pytest.mark.parametrize("words, status", [(["--help"], 0), (["--outputs", "x"], 2), ([], 2), (["nowhere"], 2)])
def test_it_answers_in_any_folder_without_heavy_imports(tmp_path, words, status):
    code = """
import runpy, sys
sys.argv = %r
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "timm", "matplotlib", "numpy"} & set(sys.modules)
"""
    command = [sys.executable, "-c", code % [os.path.join(ROOT, "tools", "report.py"), *words]]
    done = subprocess.run(command, capture_output=True, cwd=str(tmp_path))
    assert done.returncode == status, done.stderr.decode()
    assert len(done.stderr.splitlines()) == (1 if status else 0) and not list(tmp_path.iterdir())
