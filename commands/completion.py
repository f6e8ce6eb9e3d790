"""`--print-completion`: a script for bash or zsh that completes the options of main.py, by the package shtab."""

from __future__ import annotations

import re

from commands import list_models
from options import parsing
from results import trackers
from runtime.errors import UserError

FOLDERS = ("data_path", "image_root", "data_cache", "index_cache", "output_dir")
FILES = ("config", "eval_json", "finetune", "resume", "teacher_path", "train_data", "val_data")
VALUES = {"model": list_models.names(), "teacher_model": list_models.names(), "tracker": trackers.NAMES}

# shtab's function knows neither `--name=value`, which bash takes apart, nor `--some_name`, nor an interpreter in front.
_BASH_REST = """
_main_py_words() {
    local -a words=()
    local number=0 word
    for word in "${COMP_WORDS[@]:$1}"; do
        if [[ $word == = ]]; then
            if ((number == COMP_CWORD - $1)); then words+=(""); fi
        else
            if [[ $word == --* ]]; then word=${word//_/-}; fi
            words+=("$word")
        fi
        if ((number == COMP_CWORD - $1)); then break; fi
        number=$((number + 1))
    done
    COMP_WORDS=("${words[@]}")
    COMP_CWORD=$((${#words[@]} - 1))
    _shtab_main_py
}

_main_py_itself() {
    _main_py_words 0
}

_main_py_below() {
    local number
    for ((number = 1; number < COMP_CWORD; number++)); do
        if [[ ${COMP_WORDS[number]} == main.py || ${COMP_WORDS[number]} == */main.py ]]; then
            _main_py_words "$number"
            return
        fi
    done
    COMPREPLY=() # the names of files, by -o default
}

complete -o bashdefault -o default -F _main_py_itself main.py
complete -o bashdefault -o default -F _main_py_below python python3 torchrun
"""


def script(shell: str) -> str:
    """Return the script to source in `shell`, "bash" or "zsh"; UserError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        message = "--print-completion %s: the package shtab is not installed: pip install shtab"
        raise UserError(message % shell) from None
    parser = parsing.build_parser()
    for action in parser._actions:
        if action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in VALUES and action.nargs is None:
            action.choices = VALUES[action.dest]
        if isinstance(action.metavar, tuple):  # which shtab prints as Python would
            action.metavar = action.metavar[0]
    text = shtab.complete(parser, shell)
    if shell == "bash":
        return re.sub(r"\ncomplete .*\n?$", "\n", text) + _BASH_REST
    return re.sub(
        r'^(  "\*?--[\w-]+)(\[.*\]:)', r"\1=\2", text, flags=re.MULTILINE
    )  # `--name=value` beside `--name value`
