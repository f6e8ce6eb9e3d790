"""The page of tools/report.py: one HTML file without scripts, which fetches nothing."""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass
from typing import Any, Sequence

from results.reader import RunFolder, is_number
from runtime.errors import UserError, printable
from utils import clock_text

GENERATOR = "tools/report.py"  # in the page and the picture: a file without it is not replaced
TEMPLATE = "report.html.j2"
SHADES = 10  # of a cell of the confusion matrix, with style rules in the template
_COLUMNS = (
    ("train_loss", "training loss", "%.4f"),
    ("test_loss", "validation loss", "%.4f"),
    ("test_acc1", "Acc@1 %", "%.2f"),
    ("test_acc5", "Acc@5 %", "%.2f"),
    ("ema_acc1", "EMA Acc@1 %", "%.2f"),
    ("ema_loss", "EMA loss", "%.4f"),
    ("train_lr", "learning rate", "%.4g"),
    ("images_per_second", "images/s", "%.1f"),
    ("seconds", "training s", "%.1f"),
    ("train_steps_skipped", "steps skipped", "%d"),
    ("train_images_skipped", "images skipped", "%d"),
)


@dataclass
class Cell:
    """A cell of a table: a text, or a bar."""

    text: Any = ""
    kind: str = ""  # its CSS classes
    bar: int | None = None  # percent


@dataclass
class Row:
    """A row of a table, with its heading."""

    name: Any
    cells: list[Cell]
    kind: str = ""  # its CSS classes


@dataclass
class Table:
    """A table of rows under headings."""

    head: list[Any]
    rows: list[Row]
    left_head: bool = False  # whether the headings are left-aligned, as texts are, and not as numbers are


@dataclass
class Classes:
    """The tables of an evaluation with --per-class."""

    suffix: str  # of the heading: which run it is, where there are several
    acc1: str
    images: str
    accuracy: Table
    pairs: Table
    matrix: Table | None


@dataclass
class OptionTables:
    """The options that differ between the runs, and the others."""

    differing: Table
    equal: Table


def page(runs: Sequence[RunFolder], defaults: dict[str, Any], picture: bytes) -> str:
    """Return the HTML text of the report on the runs, with a PNG of their curves; `defaults` are options."""
    models = sorted({to_text(run.summary.get("model") or run.options.get("model") or "run") for run in runs})
    return _template().render(
        generator=GENERATOR,
        title="%s: training report" % ", ".join(models),
        shades=SHADES,
        runs=runs,
        notes=[(run.name, note) for run in runs for note in run.notes],
        facts=_facts_of(runs[0]) if len(runs) == 1 else None,
        facts_table=_facts_table(runs),
        picture=base64.b64encode(picture).decode("ascii"),
        classes=[_classes(run, _suffix(run, runs)) for run in runs if run.evaluation.get("per_class")],
        epochs=[(_suffix(run, runs), _epochs(run)) for run in runs if run.rows],
        options=_options(runs, defaults),
    )


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UserError("the report needs jinja2: python -m pip install jinja2") from None
    loader = jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__)))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["text"] = to_text
    return environment.get_template(TEMPLATE)


def to_text(value: Any) -> str:
    """Return `value` as printable text; the template escapes what HTML would read as markup."""
    try:
        return printable(str(value))
    except ValueError:  # Python prints no integer of some thousand digits
        return "(a number with too many digits)"


def _suffix(run: RunFolder, runs: Sequence[RunFolder]) -> str:
    return " of " + run.name if len(runs) > 1 else ""


def _facts_of(run: RunFolder) -> list[tuple[str, Any]]:
    """Return [(fact, value)] of a run, always the same facts."""
    summary, best = run.summary, run.best()
    last = {key: values[-1][1] for key, values in ((key, run.series(key)) for key, _, _ in _COLUMNS) if values}
    seconds: Any = summary.get("training_seconds")
    is_timed = isinstance(seconds, (int, float)) and 0 <= seconds < 10**9
    return [
        ("status", run.status),
        ("epochs", "%d of %s" % (max(run.rows, default=-1) + 1, summary.get("epochs", run.options.get("epochs", "?")))),
        ("best Acc@1", "%.2f %% in epoch %d" % (best[1], best[0]) if best else "-"),
        ("last Acc@1", number(last.get("test_acc1"), "%.2f %%")),
        ("last EMA Acc@1", number(last.get("ema_acc1"), "%.2f %%")),
        ("last training loss", number(last.get("train_loss"), "%.4f")),
        ("images/s on average", number(summary.get("images_per_second"), "%.1f")),
        ("training time", clock_text(seconds) if is_timed else "-"),
        ("model", summary.get("model", run.options.get("model", "-"))),
        ("images", "%s train, %s val" % (summary.get("train_images", "?"), summary.get("val_images", "?"))),
        ("classes", summary.get("classes", "-")),
        ("batch size a process", summary.get("batch_size", "-")),
        ("processes", summary.get("world_size", "-")),
        ("device", summary.get("device", "-")),
        ("precision", summary.get("precision", "-")),
        ("versions", run.versions or "-"),
    ]


def number(value: Any, form: str) -> str:
    """Return `value` in the form; "-" where it is no number."""
    return form % value if is_number(value) and math.isfinite(value) else "-"


def _facts_table(runs: Sequence[RunFolder]) -> Table:
    rows = []
    for facts in zip(*[_facts_of(run) for run in runs]):
        kind = "text differs" if len({to_text(value) for _, value in facts}) > 1 else "text"
        rows.append(Row(facts[0][0], [Cell(value, kind) for _, value in facts]))
    return Table(["", *[run.name for run in runs]], rows, left_head=True)


def _epochs(run: RunFolder) -> Table:
    best = run.best()
    present = [column for column in _COLUMNS if any(row.get(column[0]) for row in run.rows.values())]
    values = [dict(run.series(key)) for key, _, _ in present]
    rows = []
    for epoch in sorted(run.rows):
        cells = [Cell(number(column.get(epoch), form)) for column, (_, _, form) in zip(values, present)]
        rows.append(Row(epoch, cells, "best" if best and best[0] == epoch else ""))
    return Table(["epoch", *[label for _, label, _ in present]], rows)


def _options(runs: Sequence[RunFolder], defaults: dict[str, Any]) -> OptionTables:
    """Return the options that differ between the runs, or of one run from the defaults, and the others."""
    compared = [run.options for run in runs] + ([defaults] if len(runs) == 1 else [])
    labels = [run.name for run in runs] if len(runs) > 1 else ["this run", "default"]
    head = ["option", *labels]
    options = OptionTables(Table(head, [], left_head=True), Table(head, [], left_head=True))
    for name in sorted({name for values in compared[: len(runs)] for name in values}):
        texts = [_option_text(values, name) for values in compared]
        differs = len(set(texts)) > 1
        cells = [Cell(text, "text differs" if differs else "text") for text in texts]
        table = options.differing if differs else options.equal
        table.rows.append(Row("--" + name.replace("_", "-"), cells))
    return options


def _option_text(options: dict[str, Any], name: str) -> str:
    value = options.get(name, "(missing)")
    return "(none)" if value is None or value == "" else to_text(value)


def _classes(run: RunFolder, suffix: str) -> Classes:
    found = run.evaluation
    rows = []
    for row in sorted(found["per_class"], key=lambda row: row["correct"] / max(row["images"], 1)):
        percent = 100.0 * row["correct"] / row["images"] if row["images"] else None
        bar = Cell(bar=int(min(100, max(0, percent or 0))))
        cells = [Cell(number(percent, "%.1f")), bar, Cell(row["correct"]), Cell(row["images"])]
        rows.append(Row(row["name"], cells))
    return Classes(
        suffix,
        number(found.get("acc1"), "%.3f %%"),
        number(found.get("images"), "%d"),
        Table(["class", "Acc@1 %", "", "correct", "images"], rows),
        _pairs(found["confused"]),
        _matrix(found) if found["confusion"] else None,
    )


def _pairs(pairs: list[dict[str, Any]]) -> Table:
    rows = []
    for pair in pairs:
        numbers = [Cell(pair["images"]), Cell(number(pair["percent"], "%.1f"))]
        rows.append(Row(pair["true"], [Cell(pair["predicted"], "left"), *numbers]))
    return Table(["class", "predicted as", "images", "% of the class"], rows)


def _matrix(found: dict[str, Any]) -> Table:
    """Return the confusion matrix: a row for each true class, shaded by the fraction of its images."""
    names = [row["name"] for row in found["per_class"]]
    rows = []
    for true, counts in enumerate(found["confusion"]):
        total = max(sum(counts), 1)
        cells = [_count_cell(count, count / total, predicted == true) for predicted, count in enumerate(counts)]
        rows.append(Row(names[true], cells))
    return Table(["true \\ predicted", *names], rows)


def _count_cell(count: Any, fraction: float, is_right: bool) -> Cell:
    if not count > 0:
        return Cell()
    # The root makes a few mistakes visible, too.
    level = math.ceil(SHADES * min(1.0, fraction if is_right else math.sqrt(fraction)))
    return Cell(count, "%s%d" % ("right" if is_right else "wrong", level))
