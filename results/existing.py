"""What an output folder holds before a run begins there: a run of this program, or things of the user."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Sequence

from checkpoints import store
from pipeline.layout import contains
from results import file_names as names
from results.trackers import NAMES as TRACKERS
from results.trackers import STATE
from runtime.errors import UserError, shown
from utils import is_leftover, name_by_time, parse_json

if TYPE_CHECKING:
    from options.parsing import Options

CONFIG_TITLE = "# python main.py --config THIS_FILE reproduces this run"
CHECKPOINTS = (store.LATEST, store.PREVIOUS, store.BEST)
_WRITTEN = (*CHECKPOINTS, store.NOT_FINITE, names.CONFIG, names.ROWS, names.SUMMARY, names.TRAIN_LOG)
_OWN = {*_WRITTEN, names.EVALUATION, names.EVAL_LOG, names.CURVES, names.PAGE, names.LOCK}
_OWN_PATTERNS = (
    r"index\.(train|val)\.[0-9a-f]{16}",
    r"(%s)(\.damaged)?\.\d{8}-\d{6}(-\d+)?" % "|".join(map(re.escape, CHECKPOINTS)),  # of store.rename_by_time
    r"[\w-]+_bs\d+_\d+p_(acc|perf|eval)\.log",  # of tools/case_log.py
)


def holds_run(folder: str) -> bool:
    """Return whether a run of this program has begun in `folder`.

    Its summary or its rows tell, or its config.yaml with another of its files: that alone may be a copy.
    """
    if not os.path.isdir(folder):
        return False
    beside = (names.LOCK, names.TRAIN_LOG, store.LATEST, store.PREVIOUS)
    if is_own_config(folder) and any(os.path.isfile(os.path.join(folder, name)) for name in beside):
        return True
    has_summary = {"epochs_done", "virtual_ranks"} <= _json_object(_head(folder, names.SUMMARY)).keys()
    return has_summary or _is_own_row(_head(folder, names.ROWS).split("\n")[0])


def is_own_config(folder: str) -> bool:
    """Return whether `folder` has the config.yaml of a run."""
    return _head(folder, names.CONFIG).startswith(CONFIG_TITLE)


def _is_own_row(line: str) -> bool:
    return {"epoch", "train_loss", "images_per_second"} <= _json_object(line).keys()


def _head(folder: str, name: str) -> str:
    """Return the beginning of a text file; "" where there is none."""
    path = os.path.join(folder, name)
    try:
        if os.path.isfile(path):  # opening a pipe would wait for its writer
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read(2**20)
    except OSError:
        pass
    return ""


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def check_regular(folder: str, trains: bool) -> None:
    """Raise UserError where something that is no file has the name of a file to be written or read: a pipe may hang.

    Checkpoints are left out: one that cannot be read is passed over.
    """
    written = (names.LOCK, names.CONFIG, names.ROWS, names.SUMMARY, names.TRAIN_LOG)
    for name in (*written, names.EVALUATION) if trains else (names.EVALUATION, names.EVAL_LOG):
        path = os.path.join(folder, name)
        if os.path.exists(path) and not os.path.isfile(path):
            text = "--output-dir %s: %s there is not a regular file: remove it, or name another folder"
            raise UserError(text % (shown(folder), name))


def check_nothing_is_overwritten(folder: str, resumes: bool) -> None:
    """Raise UserError where `folder`, which holds no run, has a file of the user that a run would write to.

    With `resumes` the run resumes from a checkpoint there.
    """
    for name in _WRITTEN:
        is_continued = resumes and (name in CHECKPOINTS or (name == names.CONFIG and is_own_config(folder)))
        if os.path.lexists(os.path.join(folder, name)) and not is_continued:
            text = "--output-dir %s: it holds no run, but a file %s, which a run would overwrite: name another folder"
            raise UserError(text % (shown(folder), name))


def check_inputs(options: Options) -> None:
    """Raise UserError where something that the run reads lies in its output folder, which is to be renamed."""
    given: list[tuple[str, Sequence[str]]] = [("--config", options.config or [])]
    inputs = ("data_path", "train_data", "val_data", "image_root", "resume", "finetune", "teacher_path", "index_cache")
    for name in inputs:
        given.append(("--" + name.replace("_", "-"), [getattr(options, name)]))
    for option, paths in given:
        for path in paths:
            if path and "://" not in path and _leads_through(path, os.path.realpath(options.output_dir)):
                text = "%s %s lies in --output-dir %s, which holds another run and would be renamed: name another"
                raise UserError(text % (option, shown(path), shown(options.output_dir)) + " --output-dir")


def _leads_through(path: str, folder: str, links: int = 40) -> bool:
    """Return whether `path` lies in `folder` (without links), or is reached by a link in it."""
    path = os.path.abspath(path)
    while True:
        if contains(folder, os.path.realpath(path)):
            return True
        above = os.path.dirname(path)
        if os.path.islink(path) and links:
            target = os.path.join(above, os.readlink(path))
            if contains(folder, os.path.realpath(above)) or _leads_through(target, folder, links - 1):
                return True
        if above == path:
            return False
        path = above


def set_aside(folder: str) -> str:
    """Give the run in `folder` another place, whose name ends with the time, and return that.

    The folder is renamed where it holds nothing else; otherwise the files of the run are moved, and the others stay.
    """
    folder = os.path.realpath(folder)
    entries = os.listdir(folder)
    own = [name for name in entries if _is_own(folder, name)]
    if len(own) == len(entries):
        return store.rename_by_time(folder)
    target = name_by_time(folder)
    os.mkdir(target)
    try:
        for name in sorted(own, key=lambda name: name == names.CONFIG):  # the last one: until then it tells of a run
            if name != names.LOCK:
                os.rename(os.path.join(folder, name), os.path.join(target, name))
    finally:
        if not os.listdir(target):
            os.rmdir(target)
    return target


def _is_own(folder: str, name: str) -> bool:
    """Return whether a file or folder in the folder of a run is the run's."""
    if name in TRACKERS:
        return os.path.isfile(os.path.join(folder, name, STATE))
    return name in _OWN or is_leftover(name) or any(re.fullmatch(pattern, name) for pattern in _OWN_PATTERNS)
