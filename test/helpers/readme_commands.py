"""The commands in the READMEs and docs: which program each one starts, and with which options."""

import io
import os
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout

import pytest
from paths import ROOT

READMES = ("README.md", "README_zh.md")
# Documents whose commands are executed, in this order: a command finds the files that those before have written.
EXECUTED = READMES + tuple("docs/%s.md" % name for name in ("TRAINING", "DATA", "CHECKPOINTS", "REPORTS", "DEPLOY"))
BEGINNINGS = ("bash", "python", "python3", "source", "torchrun", "srun", "sbatch", "pip", "cd", "docker", "export")
OWN_FILES = (".py", ".sh", ".sbatch", "requirements.txt")  # the endings of this project's programs


def blocks_of(document):
    """Return [(language, text)] of the fenced blocks."""
    with open(os.path.join(ROOT, document), encoding="utf-8") as file:
        return re.findall(r"^ *```(\w*)\n(.*?)^ *```", file.read(), re.M | re.S)


class Command:
    """One command: `words` as a shell splits them, after the `variables` that it sets."""

    def __init__(self, document, line):
        self.document, self.line = document, line
        self.words = shlex.split(line, comments=True)
        self.variables = []
        while self.words and re.match(r"[A-Z_]+=", self.words[0]):
            self.variables.append(self.words.pop(0))

    @property
    def program(self):
        """(index, path) of the project's program that it starts, or None."""
        for index, word in enumerate(self.words):
            if word.endswith(OWN_FILES):
                return index, os.path.normpath(word)
        return None

    @property
    def key(self):
        """The command without values of options and names of files, as in TABLE."""
        parts = [name.partition("=")[0] + "=" for name in self.variables]
        own = self.program[1] if self.program else None
        for word in self.words:
            if word.startswith("-"):
                parts.append(word.partition("=")[0].replace("_", "-") if word.startswith("--") else word)
            elif os.path.normpath(word) == own:
                parts.append(own)
            else:
                parts.append("FILE" if re.search(r"[/.]", word) else word)
        return " ".join(parts)

    @property
    def arguments(self):
        """The words after the program, without a redirection."""
        following = self.words[self.program[0] + 1 :]
        return following[: following.index(">")] if ">" in following else following


def commands_of(document):
    """Return the commands in the fenced blocks; every line of a bash block is one."""
    found = []
    for language, text in blocks_of(document):
        if language == "python":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            first = line.split()[:1]
            is_command = first and (first[0] in BEGINNINGS or re.match(r"[A-Z_]+=\S", first[0]) is not None)
            if is_command or (language == "bash" and line.strip() and not line.lstrip().startswith("#")):
                found.append(Command(document, line.strip()))
    return [command for command in found if command.words]


def run_program(path, words):
    """Run a Python program of the project in this process; return (exit status, stdout)."""
    argv, text = sys.argv, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # can be reconfigured like the real one
    sys.argv = [path, *words]
    try:
        with redirect_stdout(text):
            runpy.run_path(os.path.join(ROOT, path), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv = argv
    text.flush()
    return status, text.buffer.getvalue().decode("utf-8", "replace")


_helps = {}


def help_of(path, words):
    """Return the --help of the program; `words` may begin with a subcommand."""
    subcommand = [word for word in words[:1] if not re.search(r"[-/.]", word)]
    if (path, *subcommand) not in _helps:
        status, text = run_program(path, [*subcommand, "--help"])
        assert status == 0, path
        _helps[(path, *subcommand)] = text
    return _helps[(path, *subcommand)]


def assert_known(path, words):
    """Assert that the program's --help has every option among `words`."""
    text = help_of(path, words)
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].replace("_", "-")
            assert re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(name), text), "%s has no option %s" % (path, name)


def assert_launcher_knows(words):
    """Assert that torchrun has every option among `words`."""
    run = pytest.importorskip("torch.distributed.run", reason="this torch has no torchrun")
    run.get_args_parser().parse_args([*words, "main.py"])
