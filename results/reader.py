"""The output folder of a run, complete or not: its rows, summary, options and evaluation by class."""

from __future__ import annotations

import datetime
import math
import os
import re
from typing import Any

from options import config_files
from results.file_names import CONFIG, EVALUATION, ROWS, SUMMARY
from runtime.errors import UserError, printable, reason, shown
from utils import open_regular, parse_json

LARGEST_FILE = 2**24  # bytes of a file that are read; a run of thousands of epochs has fewer
_SCALARS = (bool, int, float, str, datetime.date)


class RunFolder:
    """The readable part of a run's folder; `notes` lists what is missing. UserError where `path` holds no run.

    `rows` are the lines of log.txt by epoch, `versions` the libraries that the run started with, or "".
    """

    def __init__(self, path: str) -> None:
        if not os.path.isdir(path):
            raise UserError("%s: no such folder; name the --output-dir of a run" % shown(path))
        if not any(os.path.isfile(os.path.join(path, name)) for name in (ROWS, SUMMARY, CONFIG)):
            message = "%s holds no run: there is no %s, %s or %s"
            raise UserError(message % (shown(path), ROWS, SUMMARY, CONFIG))
        self.path = path
        self.notes: list[str] = []
        self.rows = self._read_rows()
        self.summary: dict[str, Any] = self._read_json(SUMMARY)
        self.options, self.versions = self._read_options()
        self.evaluation = self._read_evaluation()
        if not self.rows:
            self.notes.append("no epoch has been finished")

    @property
    def name(self) -> str:
        """The path, printable."""
        return shown(self.path)

    @property
    def status(self) -> str:
        """Whether the run is complete: "complete", "running or stopped", or "unknown"."""
        names = {"running": "running or stopped", "complete": "complete"}
        return names.get(str(self.summary.get("status")), "unknown")

    def series(self, key: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of every row that has a number under `key`, which may be NaN or infinite."""
        values: list[tuple[int, Any]] = [(epoch, row.get(key)) for epoch, row in sorted(self.rows.items())]
        return [(epoch, float(value)) for epoch, value in values if is_number(value)]

    def best(self) -> tuple[int, float] | None:
        """Return (epoch, Acc@1 in percent) of the best epoch, the first among equals; None where no epoch has one."""
        pairs = [(epoch, value) for epoch, value in self.series("test_acc1") if math.isfinite(value)]
        return max(pairs, key=lambda pair: (pair[1], -pair[0])) if pairs else None

    def _text(self, name: str) -> str | None:
        """Return the text of the file `name`, or None where there is none."""
        path = os.path.join(self.path, name)
        if not os.path.isfile(path):  # opening a pipe would wait for its writer
            return None
        try:
            with open_regular(path) as file:
                data = file.read(LARGEST_FILE + 1)
            if len(data) > LARGEST_FILE:
                self.notes.append("%s has more than %d bytes: the rest is left out" % (name, LARGEST_FILE))
            return data[:LARGEST_FILE].decode("utf-8", errors="replace")
        except OSError as error:
            self.notes.append("%s cannot be read: %s" % (name, reason(error)))
            return None

    def _read_json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in the file `name`, or {} where there is none."""
        text = self._text(name)
        if text is None:
            return {}
        found = _parsed(text)
        if isinstance(found, dict):
            return found
        self.notes.append("%s is damaged: it holds no JSON object" % name)
        return {}

    def _read_rows(self) -> dict[int, dict[str, Any]]:
        """Return {epoch: row}; the later row where an epoch is there twice."""
        rows: dict[int, dict[str, Any]] = {}
        damaged = 0
        for line in (self._text(ROWS) or "").splitlines():
            row = _parsed(line)
            epoch = row.get("epoch") if isinstance(row, dict) else None
            if isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 10**9:
                rows[epoch] = row
            elif line.strip():
                damaged += 1
        if damaged:
            self.notes.append("%s: %d damaged line(s) are left out" % (ROWS, damaged))
        return rows

    def _read_options(self) -> tuple[dict[str, Any], str]:
        """Return ({option: value}, the versions that the run started with or "")."""
        text = self._text(CONFIG)
        if text is None:
            return {}, ""
        found = re.match(r"#[^\n]*\((torch [^)\n]*)\)", text)
        try:
            found_options = config_files.read_config(os.path.join(self.path, CONFIG))
            options = {printable(name[:100]): _option_of(value) for name, value in found_options.items()}
        except UserError as error:
            self.notes.append("%s is damaged: %s" % (CONFIG, printable(reason(error))))
            options = {}
        return options, found.group(1) if found else ""

    def _read_evaluation(self) -> dict[str, Any]:
        """Return the output of --per-class, or {} where it is missing or damaged."""
        found = self._read_json(EVALUATION)
        if not found or _is_evaluation(found):
            return found
        self.notes.append("%s is damaged: it is not an output of --per-class" % EVALUATION)
        return {}


def _parsed(text: str) -> Any:
    """Return the value of a JSON text, or None where it is damaged."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _option_of(value: Any) -> Any:
    """Return the value of an option, or a word for what is none: lists of lists of lists could fill the memory."""
    items = value if isinstance(value, list) else [value]
    if all(item is None or isinstance(item, _SCALARS) for item in items):
        return value
    return "(a %s of others)" % ("list" if isinstance(value, list) else type(value).__name__)


def is_number(value: Any) -> bool:
    """Return whether `value` is a number of a size that can be drawn; NaN and infinities count."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and (abs(value) < 10**18 or not -math.inf < value < math.inf)


def _is_evaluation(found: dict[str, Any]) -> bool:
    """Return whether `found` has the entries of an evaluation with --per-class."""
    rows, pairs, matrix = found.get("per_class"), found.get("confused"), found.get("confusion")
    if not (isinstance(rows, list) and all(_has(row, ("images", "correct"), ("name",)) for row in rows)):
        return False
    if not (
        isinstance(pairs, list) and all(_has(pair, ("images", "percent"), ("true", "predicted")) for pair in pairs)
    ):
        return False
    if matrix is None:
        return True
    is_square = isinstance(matrix, list) and len(matrix) == len(rows)
    return (
        is_square
        and all(isinstance(row, list) and len(row) == len(rows) for row in matrix)
        and all(is_number(value) for row in matrix for value in row)
    )


def _has(row: Any, numbers: tuple[str, ...], texts: tuple[str, ...]) -> bool:
    """Return whether `row` is a dictionary with these numbers and texts."""
    if not isinstance(row, dict):
        return False
    return all(is_number(row.get(key)) for key in numbers) and all(isinstance(row.get(key), str) for key in texts)
