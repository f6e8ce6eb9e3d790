"""A plugin of pytest: where the variable CI is set, a skipped test that test/skips.txt does not list is a failure."""

import fnmatch
import os
import sys

from paths import TEST

STACK = "old" if sys.version_info < (3, 9) else "2"  # torch 1.5 and 1.8 are tested on Python 3.7 and 3.8


def read_rows():
    """Return the rows (stack, file, reason) of skips.txt."""
    with open(os.path.join(TEST, "skips.txt"), encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return [tuple(line.split(" | ", 2)) for line in lines if line and not line.startswith("#")]


def matches(text, pattern):
    """Return whether `text` is `pattern`, in which * stands for anything."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


def is_listed(rows, stack, file, reason):
    """Return whether a test of `file` (below test/) may be skipped for that reason."""
    return any(row[0] in ("any", stack) and matches(file, row[1]) and matches(reason, row[2]) for row in rows)


def unlisted(config):
    """Return a line for each skip of the session that is not listed; [] where CI is not set."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter and os.environ.get("CI") else []
    rows, lines = read_rows(), []
    for report in reports:
        file, reason = report.nodeid.split("::")[0], report.longrepr[2]
        file, reason = file[file.startswith("test/") and len("test/") :], reason.replace("Skipped: ", "", 1)
        if not is_listed(rows, STACK, file, reason):
            lines.append("%s | %s | %s" % (STACK, file, reason))
    return lines


def pytest_sessionfinish(session):
    """Fail a session that would pass."""
    if session.exitstatus in (0, 5) and unlisted(session.config):  # 5: nothing was left to run
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter, config):
    """Print the skips that are not listed."""
    lines = unlisted(config)
    if lines:
        terminalreporter.section("%d skipped tests are not listed in test/skips.txt" % len(lines), red=True)
        for line in sorted(set(lines)):
            terminalreporter.line(line)
