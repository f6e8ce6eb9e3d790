"""What the documents promise about the code: options, files, tests and links that exist."""

import argparse
import glob
import os
import re

import pytest
from paths import ROOT

from options import parsing

DOCUMENTS = sorted(
    os.path.relpath(path, ROOT)
    for pattern in ("*.md", "docs/*.md", "test/*.md", "docker/*.md")
    for path in glob.glob(os.path.join(ROOT, pattern))  # noqa: PTH207
)
MOST_LINES = {"README.md": 220}


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def anchors_of(path):
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?```", "", text_of(path), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-") for heading in headings}


def links_of(path):
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)) if not link.startswith("http")]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path):
    for link in links_of(path):
        file, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
        assert os.path.exists(os.path.join(ROOT, target)), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_every_public_option_is_documented():
    text = text_of("docs/OPTIONS.md")
    for action in parsing.build_parser()._actions:
        for name in action.option_strings:
            if action.help != argparse.SUPPRESS and name.startswith("--") and name != "--help":
                assert re.search(r"`%s(?![\w-])" % re.escape(name), text), name


def test_every_documented_option_exists():
    known = {name for action in parsing.build_parser()._actions for name in action.option_strings}
    rows = [line for line in text_of("docs/OPTIONS.md").splitlines() if line.startswith("| `--")]
    assert len(rows) > 80
    for row in rows:
        for name in re.findall(r"`(--[\w-]+)", row.split("|")[1]):
            assert name in known, name


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != "CHANGELOG.md"])
def test_the_files_it_names_exist(path):
    folders = [name for name in os.listdir(ROOT) if os.path.isdir(os.path.join(ROOT, name)) and name != "data"]
    pattern = r"(?<![\w/.-])((?:%s)/[\w/.-]*\w\.(?:py|md|sh|sbatch|yaml))\b" % "|".join(map(re.escape, folders))
    for name in re.findall(pattern, text_of(path)):
        if not re.search("NAME|MODULE|NEW|output/", name):
            assert os.path.exists(os.path.join(ROOT, name)), name


def test_the_tests_of_the_reliability_table_exist():
    for module, names in re.findall(r"(test_\w+): ((?:test_\w+(?:, )?)+)", text_of("docs/RELIABILITY.md")):
        source = text_of("test/system/%s.py" % module)
        for name in names.split(", "):
            assert "def %s" % name.rstrip("_") in source, name


@pytest.mark.parametrize("path", sorted(MOST_LINES))
def test_it_stays_short(path):
    assert len(text_of(path).splitlines()) <= MOST_LINES[path]
