"""Command lines: a parser with short errors, and numbers within bounds."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, Callable, NoReturn, Sequence

from runtime.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Takes `--data_path` for `--data-path`, and raises UserError instead of printing its usage."""

    def parse_known_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        _check_words(args)
        return super().parse_known_args([_with_dashes(word) for word in args], namespace)

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = did_you_mean(unknown[0].split("=")[0], self._option_string_actions)
            raise UserError("unknown option %s%s" % (unknown[0], near))
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            words = (value, ", ".join(choices), did_you_mean(str(value), choices))
            raise argparse.ArgumentError(action, "invalid choice: %r (choose from %s)%s" % words)

    def error(self, message: str) -> NoReturn:
        raise UserError(message.replace("argument ", "", 1) if message.startswith("argument ") else message)


class FileParser(Parser):
    """A Parser for names of files, which may hold any bytes and, after `--`, begin with a dash."""

    def parse_known_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        args = list(args)
        end = args.index("--") if "--" in args else len(args)
        _check_help(args[:end])
        words = [_with_dashes(word) for word in args[:end]]
        return argparse.ArgumentParser.parse_known_args(self, words + args[end:], namespace)

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        options, unknown = self.parse_known_args(args, namespace)
        if unknown and not unknown[0].startswith("-"):
            raise UserError("%s stands apart: name all files together, before the options or after" % unknown[0])
        return super().parse_args(args, namespace)


def _check_help(words: Sequence[str]) -> None:
    for word in words:
        if word.startswith("-h") and word != "-h":  # argparse of Python 3.7 cannot take `-h=`
            raise UserError("unknown option %s" % word)


def _check_words(words: Sequence[str]) -> None:
    """Raise UserError for a word that no file name, log or configuration file could hold."""
    _check_help(words)
    name = "the command line"
    for word in words:
        if word.startswith("--") and word != "--":
            name = word.partition("=")[0]
        if word == "--" or word.endswith("=--"):  # argparse would remove it
            raise UserError("%s: -- is not a value" % name)
        if "\0" in word:
            raise UserError("%s: a null character cannot be part of a value" % name)
        if len(word) > _LONGEST_WORD:
            raise UserError("%s: a value has at most %d characters, not %d" % (name, _LONGEST_WORD, len(word)))
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError("%s: %r is not valid UTF-8; rename the file or folder" % (name, word))


_LONGEST_WORD = 4096  # as long as a path on Linux


def add_switch(add: Callable[..., Any], name: str, default: bool | None, help_on: str) -> None:
    """Add `--name` and `--no-name` for one boolean by the function `add`; None stands for what a checkpoint records."""
    state = "the checkpoint's, else off" if default is None else "on" if default else "off"
    dest, text = name.replace("-", "_"), "%s (default: %s)" % (help_on, state)
    add("--" + name, action="store_true", default=default, help=text)
    add("--no-" + name, dest=dest, action="store_false", default=default, help="turn --%s off" % name)


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def number(kind: type, low: float = 0, high: float = 10**9, above: float | None = None) -> Callable[[str], Any]:
    """Return a converter of text to a number from `low`, or above `above`, to `high`."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("%r is not %s" % (text, _KIND_NAMES[kind])) from None
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError("%r is not a finite number" % text)
        if value > high or (value < low if above is None else value <= above):
            lower = "at least %s" % low if above is None else "more than %s" % above
            raise argparse.ArgumentTypeError("must be %s and at most %s, got %s" % (lower, high, text))
        return value

    return convert


_KIND_NAMES: dict[type, str] = {int: "an integer", float: "a number"}


def extension(text: str) -> str:
    """Convert text to the extension of a file, such as .gif, in lower case."""
    if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", text):
        return text.lower()
    is_bare = re.fullmatch("[A-Za-z0-9]{1,5}", text)
    raise argparse.ArgumentTypeError("%r is no extension, %s" % (text, "write ." + text if is_bare else "such as .gif"))


def alpha(text: str) -> float:
    """Convert text to a parameter of a beta distribution, which numpy cannot sample where it is nearly 0."""
    value = number(float, high=1000)(text)
    if 0 < value < 1e-6:
        raise argparse.ArgumentTypeError("must be 0, or at least 1e-06, got %s" % text)
    return value
