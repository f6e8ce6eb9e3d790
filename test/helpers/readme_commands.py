"""The commands of README.md and README_zh.md: where they stand, what they start, which options they name."""

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
BEGINNINGS = ("bash", "python", "torchrun", "srun", "sbatch", "pip", "cd", "docker", "export")
OWN_FILES = (".py", ".sh", ".sbatch", "requirements.txt")  # of the project, where a command begins with them


def blocks_of(readme):
    """[(language, text)] of the fenced blocks."""
    with open(os.path.join(ROOT, readme), encoding="utf-8") as file:
        return re.findall(r"^ *```(\w*)\n(.*?)^ *```", file.read(), re.M | re.S)


class Command:
    """One command: `words` as a shell splits them; `variables` are those set before it."""

    def __init__(self, readme, line):
        self.readme, self.line = readme, line
        self.words = shlex.split(line, comments=True)
        self.variables = []
        while self.words and re.match(r"[A-Z_]+=", self.words[0]):
            self.variables.append(self.words.pop(0))

    @property
    def program(self):
        """(index, path) of the project's own file that it starts; None for others."""
        for index, word in enumerate(self.words):
            if word.endswith(OWN_FILES):
                return index, os.path.normpath(word)
        return None

    @property
    def key(self):
        """The command without the values of options and the names of the user's files, as TABLE has it."""
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
        """What follows the program, up to a file that takes its output."""
        following = self.words[self.program[0] + 1 :]
        return following[: following.index(">")] if ">" in following else following


def commands_of(readme):
    """The commands in the fenced blocks; every line of a bash block is one."""
    found = []
    for language, text in blocks_of(readme):
        if language == "python":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            first = line.split()[:1]
            is_command = first and (first[0] in BEGINNINGS or re.match(r"[A-Z_]+=\S", first[0]) is not None)
            if is_command or (language == "bash" and line.strip() and not line.lstrip().startswith("#")):
                found.append(Command(readme, line.strip()))
    return [command for command in found if command.words]


def run_program(path, words):
    """(exit status, stdout) of a Python program of the project, in this process."""
    argv, text = sys.argv, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as the real one it can be reconfigured
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
    """What the program prints for --help; `words` may begin with a subcommand."""
    subcommand = [word for word in words[:1] if not re.search(r"[-/.]", word)]
    if (path, *subcommand) not in _helps:
        status, text = run_program(path, [*subcommand, "--help"])
        assert status == 0, path
        _helps[(path, *subcommand)] = text
    return _helps[(path, *subcommand)]


def assert_known(path, words):
    """Every option among `words` is one that the program tells of."""
    text = help_of(path, words)
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].replace("_", "-")
            assert re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(name), text), "%s has no option %s" % (path, name)


def assert_launcher_knows(words):
    """Every option is one of torchrun's."""
    run = pytest.importorskip("torch.distributed.run", reason="this torch has no torchrun")
    run.get_args_parser().parse_args([*words, "main.py"])
