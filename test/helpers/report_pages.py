"""Folders for tools/report.py, and the page that it writes, read back."""

import html.parser
import json
import os

HOSTILE = "<script>document.title='harmed'</script>"
ROWS = [
    {"epoch": 0, "train_loss": 2.5, "test_loss": 2.0, "test_acc1": 40.0, "ema_acc1": 10.0, "train_lr": 0.001},
    {"epoch": 1, "train_loss": 1.5, "test_loss": 1.25, "test_acc1": 71.5, "ema_acc1": 50.0, "train_lr": 0.002},
    {"epoch": 2, "train_loss": float("nan"), "test_loss": 1.5, "test_acc1": 70.0, "ema_acc1": 73.0, "train_lr": 0.001},
]


def evaluation(names):
    """Return what --per-class writes of these classes."""
    return {
        "acc1": 50.0,
        "images": 2 * len(names),
        "per_class": [{"name": name, "images": 2, "correct": 1, "acc1": 50.0} for name in names],
        "confused": [{"true": names[0], "predicted": names[1], "images": 1, "percent": 50.0}],
        "confusion": [[1] * len(names) for _ in names],
    }


def write_run(folder, names=("cat", "dog"), **options):
    """Write a folder as a run leaves it; return its path."""
    os.makedirs(str(folder))
    files = {
        "log.txt": "".join(json.dumps(dict(row, images_per_second=100.0 + row["epoch"])) + "\n" for row in ROWS),
        "summary.json": json.dumps({"model": "smlpnet_tiny", "status": "complete", "epochs": 3, "device": "cpu"}),
        "config.yaml": "# python main.py --config THIS_FILE reproduces this run (torch 1.2.3, timm 4.5.6)\n"
        + "".join("%s: %s\n" % pair for pair in dict({"lr": 0.0005, "epochs": 3}, **options).items()),
        "evaluation.json": json.dumps(evaluation(list(names))),
    }
    for name, text in files.items():
        with open(os.path.join(str(folder), name), "w") as file:
            file.write(text)
    return str(folder)


class Page(html.parser.HTMLParser):
    """The elements, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.handlers, self.texts, self.rows, self.marked = [], [], [], [], [], []
        self.feed(text)
        self.text = " ".join(self.texts)

    is_in_row = False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag == "tr":
            self.is_in_row = True
            self.rows.append([])
            self.marked.append("differs" in str(attributes))
        elif tag == "td" and self.rows:
            self.marked[-1] |= "differs" in str(attributes)

    def handle_endtag(self, tag):
        if tag == "tr":
            self.is_in_row = False

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data)
            if self.is_in_row:
                self.rows[-1].append(data)


def page_of(folder):
    """Return the Page in a folder."""
    with open(os.path.join(str(folder), "report.html"), encoding="utf-8") as file:
        return Page(file.read())
