"""Configuration files: YAML that holds options by name, read into words of a command line and written by each run."""

from __future__ import annotations

import argparse
import datetime
import os
from typing import TYPE_CHECKING, Any, Mapping

from runtime.errors import UserError, did_you_mean, reason

if TYPE_CHECKING:
    from options.command_line import Parser


def _load(text: str) -> Any:
    """Return the values in a text of YAML, without merge keys (`<<`): a few lines of merges can fill the memory."""
    import yaml  # only now: the options of a command line are checked without it

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            pass

    return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader


def read_config(path: str) -> dict[str, Any]:
    """Return the options in the YAML file `path`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST_FILE + 1)
        if len(text) > _LONGEST_FILE or text.count("[") > _MOST_LISTS:
            raise ValueError("more than %d characters or %d lists" % (_LONGEST_FILE, _MOST_LISTS))
        values = _load(text)
    except Exception as error:  # yaml raises nearly anything on a value that is not what its form says
        raise UserError("--config %s cannot be read: %s" % (path, reason(error))) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError("--config %s must hold lines of the form option: value" % path)
    return {name.replace("-", "_"): value for name, value in values.items()}


_LONGEST_FILE, _MOST_LISTS = 2**15, 500  # yaml takes a second for these, and longer than in proportion for more


def words_of(parser: Parser, path: str) -> dict[str, list[str]]:
    """Return {option: its words on a command line} of the file, so that one set of checks serves both."""
    actions = {}
    for action in parser._actions:
        if action.dest != "help" and "--" + action.dest.replace("_", "-") in action.option_strings:
            actions[action.dest] = action
    words = {}
    for name, value in read_config(path).items():
        if name not in actions or name == "config":
            raise UserError("--config %s: unknown option %s%s" % (path, name, did_you_mean(name, actions)))
        words[name] = _option_words(parser, path, actions[name], value)
    return words


def _option_words(parser: Parser, path: str, action: argparse.Action, value: Any) -> list[str]:
    flag = "--" + action.dest.replace("_", "-")
    opposite = "--no-" + flag[2:]
    if value is None and action.default is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError("--config %s: %s must be true or false, not %s" % (path, action.dest, _kind_of(value)))
        if not value and opposite not in parser._option_string_actions:
            return []
        return [flag] if value else [opposite]
    if value is None:
        raise UserError("--config %s: %s has no value" % (path, action.dest))
    items = value if isinstance(value, list) and action.nargs else [value]
    for item in items:
        if not _is_scalar(item) or (action.nargs and str(item).startswith("--")):
            raise UserError("--config %s: %s cannot be %s" % (path, action.dest, _kind_of(item)))
    return [flag, *map(str, items)] if action.nargs else ["%s=%s" % (flag, value)]


def _is_scalar(value: Any) -> bool:
    """Return whether `value` can be a word; Python refuses to print integers of some thousand digits."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() < 10**4
    return isinstance(value, (str, float, datetime.date))


def _kind_of(value: Any) -> str:
    """Return what to call `value` in a message: printing aliases within aliases could fill the memory."""
    names = {list: "a list", dict: "a mapping", bool: "true or false", type(None): "null"}
    return names.get(type(value), "this %s" % type(value).__name__)


_INPUTS = ("data_path", "train_data", "val_data", "image_root", "resume", "finetune", "teacher_path", "class_weights")
PATHS = (*_INPUTS, "data_cache", "index_cache", "output_dir")
_NO_PATHS = ("auto", "none")  # words that an option has beside a path


def with_full_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options `values` with absolute paths, so that they mean the same in any folder."""
    paths = {name: values.get(name) for name in PATHS}
    full = {name: os.path.abspath(str(path)) for name, path in paths.items() if _is_path(path)}
    return dict(values, **full)


def _is_path(value: Any) -> bool:
    return bool(value) and isinstance(value, str) and "://" not in value and value not in _NO_PATHS


def to_yaml(options: Any, **changed: Any) -> str:
    """Return the text of a configuration file that reproduces the run; `changed` options have other values."""
    import yaml

    values = with_full_paths(dict(options.as_dict(), **changed))
    for name in ("config", "eval_json", "local_rank"):
        del values[name]
    return yaml.safe_dump(values, sort_keys=True, default_flow_style=None)
