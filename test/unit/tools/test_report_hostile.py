"""tools/report.py on folders whose files are hostile: it ends soon, with a page or one line."""

import json
import random

import pytest
from odd_checkpoints import places_in
from report_pages import evaluation, page_of, write_run

from tools import report

pytestmark = pytest.mark.usefixtures("no_hang")
ODD = [None, True, -5, 10**17, 10**400, 1.7e308, -1e-320, float("nan"), -float("inf"), "x", "", "\udcff\n", [], {}]
ODD += [[1, [2]], {"a": {"b": None}}, "x" * 10**5, [[[[]]]], 0, 0.5]


@pytest.fixture
def run_report(capsys):
    """Return run_report(folder) -> stderr of a report that is written."""
    pytest.importorskip("matplotlib")

    def run(folder):
        status = report.main([str(folder)])
        captured = capsys.readouterr()
        assert status == 0 and "Traceback" not in captured.err, captured.err
        return captured.err

    return run


def test_a_configuration_of_aliases_is_not_printed(run_report, tmp_path):
    write_run(tmp_path / "run")
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for number in range(20):
        before, name = chr(97 + number), chr(98 + number)
        lines.append("%s: &%s [%s]" % (name, name, ",".join(9 * ["*" + before])))
    lines += ["lr: 0.25", "opt-betas: [0.9, 0.99]", "seed: {z: *u}"]
    (tmp_path / "run" / "config.yaml").write_text("\n".join(lines))
    run_report(tmp_path / "run")
    rows = page_of(tmp_path / "run").rows
    assert ["--b", "(a list of others)", "(missing)"] in rows and ["--seed", "(a dict of others)", "0"] in rows
    assert any(row[:2] == ["--lr", "0.25"] for row in rows)
    assert any(row[:2] == ["--opt-betas", "[0.9, 0.99]"] for row in rows)


def test_values_of_any_kind(run_report, tmp_path):
    folder = tmp_path / "run"
    write_run(folder)
    choice = random.Random(0)
    originals = {
        "summary.json": json.loads((folder / "summary.json").read_text()),
        "log.txt": [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()],
        "evaluation.json": dict(evaluation(["cat", "dog"]), acc1=50.0, images=4),
    }
    for _ in range(12):
        for name, original in originals.items():
            value = json.loads(json.dumps(original))
            places = [path for path in places_in(original) if path]
            for path in choice.sample(places, min(4, len(places))):
                holder = value
                try:
                    for key in path[:-1]:
                        holder = holder[key]
                    holder[path[-1]] = choice.choice(ODD)
                except (TypeError, KeyError, IndexError):
                    continue  # what it was in is odd already
            lines = [json.dumps(row) for row in value] if name == "log.txt" and isinstance(value, list) else None
            (folder / name).write_text("\n".join(lines) if lines is not None else json.dumps(value))
        run_report(folder)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' * 10**5, "9" * 10**6, '{"epoch": %s' % ("9" * 10**5)])
def test_texts_that_nest_or_are_huge(run_report, tmp_path, text):
    write_run(tmp_path / "run")
    names = ["log.txt", "summary.json", "config.yaml", "evaluation.json"]
    for name in names:
        (tmp_path / "run" / name).write_text(text)
    errors = run_report(tmp_path / "run")
    assert all(name in errors for name in names), errors


def test_files_without_an_end_are_read_in_part(run_report, tmp_path):
    write_run(tmp_path / "run")
    for name in ("log.txt", "summary.json", "evaluation.json"):
        with open(str(tmp_path / "run" / name), "ab") as file:
            file.truncate(2**40)
    errors = run_report(tmp_path / "run")
    assert errors.count("the rest is left out") == 3
