"""The findings of benchmarks/gpu.sh: a JSON line each, on the disk as soon as it is known.

A line holds part, name, value, unit, card and versions. `at_most` and `at_least` are its limits, `is_met` whether the
value keeps within them, `is_required` whether its part fails otherwise.
"""

from __future__ import annotations

import json
import os
import platform
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "triton", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed, without importing them."""
    from importlib import metadata  # not at the top: Python 3.7 lacks it, where a results file can be read

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Findings:
    """The findings of one part, appended to the file `path`; `fails` says that a required one is not met."""

    def __init__(self, path: str, part: str, card: str) -> None:
        self.path, self.part, self.card = path, part, card
        self.versions = versions()
        self.fails = False

    def note(
        self,
        name: str,
        value: Any,
        unit: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
        is_required: bool = True,
    ) -> None:
        """Write a finding and print it."""
        line: dict[str, Any] = {"part": self.part, "name": name, "value": value, "unit": unit}
        line.update(card=self.card, versions=self.versions)
        if at_most is not None or at_least is not None:
            is_met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
            self._judge(line, is_met, is_required)
        if at_most is not None:
            line["at_most"] = at_most
        if at_least is not None:
            line["at_least"] = at_least
        self._write(line)

    def check(self, name: str, is_met: bool) -> None:
        """Write whether something that has to hold does."""
        line: dict[str, Any] = {"part": self.part, "name": name, "value": "yes" if is_met else "no", "unit": ""}
        line.update(card=self.card, versions=self.versions)
        self._judge(line, is_met, True)
        self._write(line)

    def _judge(self, line: dict[str, Any], is_met: bool, is_required: bool) -> None:
        line.update(is_met=bool(is_met), is_required=is_required)
        self.fails = self.fails or (is_required and not is_met)

    def _write(self, line: dict[str, Any]) -> None:
        print(text_of(line), flush=True)
        with open(self.path, "a", encoding="utf-8") as file:  # O_APPEND: parts that run at the same time do not mix
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: str) -> list[dict[str, Any]]:
    """Return the findings in the file, without a line that was cut short; nothing if there is no file."""
    found = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
    except FileNotFoundError:
        pass
    return found


def shown_value(finding: dict[str, Any]) -> str:
    """Return the value with its unit, numbers with four digits."""
    value = finding["value"]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number:
        value = "{:,.0f}".format(value) if abs(value) >= 1000 else "%.4g" % value
    return ("%s %s" % (value, finding["unit"])).strip()


def shown_limit(finding: dict[str, Any]) -> str:
    """Return the limits and whether they are met, empty for a finding without."""
    if "is_met" not in finding:
        return ""
    limits = [
        "%s %s" % (words, "{:,g}".format(finding[key]))
        for key, words in (("at_most", "at most"), ("at_least", "at least"))
        if key in finding
    ]
    kind = " (required)" if finding["is_required"] and limits else ""
    return "%s%s: %s" % (" and ".join(limits) or "required", kind, "met" if finding["is_met"] else "NOT MET")


def text_of(finding: dict[str, Any]) -> str:
    """Return a finding as one line of text."""
    limit = shown_limit(finding)
    words = "%s: %s: %s" % (finding["part"], finding["name"], shown_value(finding))
    return "%s [%s]" % (words, limit) if limit else words
