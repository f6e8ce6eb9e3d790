"""A browser shows the report: its tables are there, nothing is fetched, and no name of a class becomes a script."""

import os
import shutil
import subprocess

import pytest
from report_pages import HOSTILE, Page, write_run

from tools import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]


def shown(path, profile):
    """Return the Page that the browser makes of a file."""
    words = QUIET + ["--user-data-dir=" + str(profile), "--dump-dom", "file://" + str(path)]
    done = subprocess.run([BROWSER] + words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300)
    assert done.returncode == 0
    return Page(done.stdout.decode("utf-8"))


def test_the_report_in_a_browser(tmp_path):
    pytest.importorskip("matplotlib")
    names = [HOSTILE, "<img src=http://127.0.0.1/x onerror=document.title='harmed'>", "dog"]
    folder = write_run(tmp_path / "run", names)
    assert report.main([folder]) == 0
    page = shown(os.path.join(folder, "report.html"), tmp_path / "profile")
    assert page.texts[0].startswith("smlpnet_tiny: training report") and "harmed" not in page.texts[0]
    assert "script" not in page.tags and not page.handlers
    assert all(address.startswith("data:") for address in page.addresses) and len(page.addresses) == 1
    assert ["1", "1.5000", "1.2500", "71.50", "50.00", "0.002", "101.0"] in page.rows
    for name in names:
        assert [name, "50.0", "1", "2"] in page.rows  # of the accuracies
        assert [name, "1", "1", "1"] in page.rows  # of the matrix


def test_this_browser_would_run_a_script(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>safe</title>" + HOSTILE)
    assert shown(path, tmp_path / "profile").texts[0] == "harmed"
