"""The page of tools/report.py: one HTML file without scripts, to which nothing is fetched."""

import base64
import html
import math

from results.reader import is_number
from runtime.errors import printable
from utils import clock_text

GENERATOR = "tools/report.py"  # in the page and the picture: a file without it is not replaced
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SHADES = 10
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #f4f6f9; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.6rem; margin: .4rem 0 0; } h2 { font-size: 1.2rem; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
.path { color: #5a6676; overflow-wrap: anywhere; margin: 0 0 1rem; }
section { background: #fff; border: 1px solid #dde3ea; border-radius: 8px; padding: 1rem 1.2rem; margin: 0 0 1rem; }
img { width: 100%; height: auto; display: block; }
.box { overflow: auto; max-height: 34rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .7rem 1.5rem; margin: 0; }
dt { color: #5a6676; font-size: .85rem; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.side { display: flex; flex-wrap: wrap; gap: 0 2rem; }
.side > div { flex: 1 1 20rem; min-width: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid #e8ecf1; white-space: nowrap; }
th { position: sticky; top: 0; background: #fff; color: #48566a; font-weight: 600; }
th[scope=row] { left: 0; top: auto; } th.left, td.left, th[scope=row] { text-align: left; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; max-width: 26rem; }
.differs { background: #fff3cd; } tr.best td, tr.best th { background: #e3f3e6; font-weight: 600; }
.notes { border-color: #e4b95b; background: #fffaf0; } .notes ul { margin: 0; padding-left: 1.2rem; }
.bar { display: inline-block; width: 6rem; height: .6rem; background: #e8ecf1; border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; background: #4477aa; }
.matrix td, .matrix th { padding: .15rem .4rem; text-align: center; border: 1px solid #eef1f5; min-width: 1.6rem; }
.matrix thead th { vertical-align: bottom; } .matrix th[scope=row] { text-align: left; }
.matrix .long { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 10rem; overflow: hidden; }
summary { cursor: pointer; color: #2f5d8c; margin: .5rem 0; } footer { color: #5a6676; font-size: .85rem; }
"""
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


def page(runs, defaults, picture):
    """The HTML text of the report on the RunFolders `runs`, with the PNG bytes `picture`; `defaults` are options."""
    parts = [_notes(runs), _section("Result", _facts(runs)), _section("Curves", _image(picture))]
    parts += [_section("Classes" + _of(run, runs), _classes(run)) for run in runs if run.evaluation.get("per_class")]
    parts += [_section("Epochs" + _of(run, runs), _epochs(run)) for run in runs if run.rows]
    parts.append(_section("Options", _options(runs, defaults)))
    models = sorted({str(run.summary.get("model") or run.options.get("model") or "run") for run in runs})
    title = "%s: training report" % ", ".join(models)
    head = "<meta charset='utf-8'><meta name='generator' content='%s'>" % GENERATOR
    head += '<meta http-equiv="Content-Security-Policy" content="%s">' % _POLICY
    head += "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    head += "<title>%s</title><style>%s%s</style>" % (_text(title), _STYLE, _shades())
    paths = "<br>".join(_text(run.name) for run in runs)
    body = "<h1>%s</h1><p class=path>%s</p>%s" % (_text(title), paths, "\n".join(filter(None, parts)))
    footer = "<footer>Acc@1 and Acc@5 are of the validation images; EMA is the average of the weights.</footer>"
    return "<!doctype html>\n<html lang=en><head>%s</head><body><main>%s%s</main></body></html>\n" % (
        head,
        body,
        footer,
    )


def _text(value):
    """`value` as text of the page, whatever is in it."""
    return html.escape(printable(_plain(value)))


def _plain(value):
    try:
        return str(value)
    except ValueError:  # Python prints no integer of some thousand digits
        return "(too long a number)"


def _section(title, content):
    return "<section><h2>%s</h2>%s</section>" % (_text(title), content)


def _of(run, runs):
    return " of " + run.name if len(runs) > 1 else ""


def _table(head, rows, kind=""):
    """A table in a box that scrolls; `head` and `rows` are of ready cells."""
    text = "<thead><tr>%s</tr></thead><tbody>%s</tbody>" % ("".join(head), "\n".join(rows))
    return "<div class=box><table class='%s'>%s</table></div>" % (kind, text)


def _row(cells, kind=""):
    return "<tr class='%s'>%s</tr>" % (kind, "".join(cells)) if kind else "<tr>%s</tr>" % "".join(cells)


def _heading(value, kind=""):
    return "<th class='%s'>%s</th>" % (kind, _text(value))


def _name(value):
    return "<th scope=row>%s</th>" % _text(value)


def _cell(value, kind=""):
    return "<td class='%s'>%s</td>" % (kind, _text(value))


def _notes(runs):
    notes = [(run, note) for run in runs for note in run.notes]
    if not notes:
        return ""
    items = ["<li>%s: %s</li>" % (_text(run.name), _text(note)) for run, note in notes]
    return "<section class=notes><h2>Not complete</h2><ul>%s</ul></section>" % "".join(items)


def _image(picture):
    return "<img alt='Curves of loss, accuracy, learning rate and speed' src='data:image/png;base64,%s'>" % (
        base64.b64encode(picture).decode("ascii")
    )


def _facts_of(run):
    """[(fact, text)] of a run, always the same facts."""
    told, best = run.summary, run.best()
    last = {key: values[-1][1] for key, values in ((key, run.series(key)) for key, _, _ in _COLUMNS) if values}
    seconds = told.get("training_seconds")
    timed = isinstance(seconds, (int, float)) and 0 <= seconds < 10**9
    return [
        ("status", run.status),
        ("epochs", "%d of %s" % (max(run.rows, default=-1) + 1, told.get("epochs", run.options.get("epochs", "?")))),
        ("best Acc@1", "%.2f %% in epoch %d" % (best[1], best[0]) if best else "-"),
        ("last Acc@1", number(last.get("test_acc1"), "%.2f %%")),
        ("last EMA Acc@1", number(last.get("ema_acc1"), "%.2f %%")),
        ("last training loss", number(last.get("train_loss"), "%.4f")),
        ("images/s on average", number(told.get("images_per_second"), "%.1f")),
        ("training time", clock_text(seconds) if timed else "-"),
        ("model", told.get("model", run.options.get("model", "-"))),
        ("images", "%s train, %s val" % (told.get("train_images", "?"), told.get("val_images", "?"))),
        ("classes", told.get("classes", "-")),
        ("batch size a process", told.get("batch_size", "-")),
        ("processes", told.get("world_size", "-")),
        ("device", told.get("device", "-")),
        ("precision", told.get("precision", "-")),
        ("versions", run.versions or "-"),
    ]


def number(value, form):
    """`value` in the form, "-" where it is no number."""
    return form % value if is_number(value) and math.isfinite(value) else "-"


def _facts(runs):
    columns = [_facts_of(run) for run in runs]
    if len(runs) == 1:
        return "<dl>%s</dl>" % "".join(
            "<div><dt>%s<dd>%s</div>" % (_text(name), _text(value)) for name, value in columns[0]
        )
    rows = []
    for facts in zip(*columns):
        differs = "text differs" if len({_plain(value) for _, value in facts}) > 1 else "text"
        rows.append(_row([_name(facts[0][0])] + [_cell(value, differs) for _, value in facts]))
    head = [_heading("", "left")] + [_heading(run.name, "left") for run in runs]
    return _table(head, rows)


def _epochs(run):
    best = run.best()
    present = [column for column in _COLUMNS if any(row.get(column[0]) for row in run.rows.values())]
    values = [dict(run.series(key)) for key, _, _ in present]
    rows = []
    for epoch in sorted(run.rows):
        cells = [_cell(number(of.get(epoch), form)) for of, (_, _, form) in zip(values, present)]
        rows.append(_row([_name(epoch)] + cells, "best" if best and best[0] == epoch else ""))
    return _table([_heading("epoch", "left")] + [_heading(label) for _, label, _ in present], rows)


def _options(runs, defaults):
    """The options that differ between the runs, of one run from the defaults; the others to be unfolded."""
    others = [run.options for run in runs] + ([defaults] if len(runs) == 1 else [])
    labels = [run.name for run in runs] if len(runs) > 1 else ["this run", "default"]
    differing, equal = [], []
    for name in sorted({name for options in others[: len(runs)] for name in options}):
        values = [_option_text(options, name) for options in others]
        differs = len(set(values)) > 1
        cells = [_cell(value, "text differs" if differs else "text") for value in values]
        (differing if differs else equal).append(_row([_name("--" + name.replace("_", "-"))] + cells))
    head = [_heading("option", "left")] + [_heading(label, "left") for label in labels]
    text = _table(head, differing) if differing else "<p>No option differs.</p>"
    if equal:
        text += "<details><summary>%d options that do not differ</summary>%s</details>" % (
            len(equal),
            _table(head, equal),
        )
    return text if differing or equal else "<p>There is no readable config.yaml.</p>"


def _option_text(options, name):
    value = options.get(name, "(not there)")
    return "(none)" if value is None or value == "" else _plain(value)


def _classes(run):
    found = run.evaluation
    rows = sorted(found["per_class"], key=lambda row: row["correct"] / max(row["images"], 1))
    cells = []
    for row in rows:
        share = 100.0 * row["correct"] / row["images"] if row["images"] else None
        bar = "<td><span class=bar><i style='width:%d%%'></i></span></td>" % min(100, max(0, share or 0))
        shown = [_cell(number(share, "%.1f")), bar, _cell(row["correct"]), _cell(row["images"])]
        cells.append(_row([_name(row["name"])] + shown))
    head = [_heading("class", "left")] + [_heading(text) for text in ("Acc@1 %", "", "correct", "images")]
    text = "<p>Acc@1 %s on %s images.</p>" % tuple(
        _text(number(found.get(key), form)) for key, form in (("acc1", "%.3f %%"), ("images", "%d"))
    )
    text += "<div class=side><div><h3>Accuracy by class, lowest first</h3>%s</div>" % _table(head, cells)
    text += "<div><h3>Most often taken for another</h3>%s</div></div>" % _pairs(found["confused"])
    return text + (_matrix(found) if found["confusion"] else "")


def _pairs(pairs):
    if not pairs:
        return "<p>None is.</p>"
    head = [_heading("class", "left"), _heading("taken for", "left"), _heading("images"), _heading("% of the class")]
    rows = []
    for pair in pairs:
        numbers = [_cell(pair["images"]), _cell(number(pair["percent"], "%.1f"))]
        rows.append(_row([_name(pair["true"]), _cell(pair["predicted"], "left")] + numbers))
    return _table(head, rows)


def _matrix(found):
    """The confusion matrix: a row for each true class, shaded by the share of its images."""
    names = [row["name"] for row in found["per_class"]]
    head = ["<th class=left>true \\ taken for</th>"] + [
        "<th><span class='%s'>%s</span></th>" % ("long" if len(name) > 3 else "", _text(name)) for name in names
    ]
    rows = []
    for true, counts in enumerate(found["confusion"]):
        total = max(sum(counts), 1)
        cells = [_count_cell(count, count / total, taken == true) for taken, count in enumerate(counts)]
        rows.append(_row([_name(names[true])] + cells))
    return "<h3>Confusion matrix</h3>" + _table(head, rows, "matrix")


def _count_cell(count, share, is_right):
    if not count > 0:
        return "<td></td>"
    level = math.ceil(_SHADES * min(1.0, share if is_right else math.sqrt(share)))  # few mistakes are to be seen, too
    return _cell(count, "%s%d" % ("right" if is_right else "wrong", level))


def _shades():
    """The colours of the matrix: blue where the class is right, red where it is taken for another."""
    rules = []
    for level in range(1, _SHADES + 1):
        white = "color:#fff;" if level > 6 else ""
        for kind, color in (("right", "47,93,140"), ("wrong", "200,60,40")):
            rules.append(".%s%d{%sbackground:rgba(%s,%.2f)}" % (kind, level, white, color, level / _SHADES))
    return "\n".join(rules)
