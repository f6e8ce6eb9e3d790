"""The wrappers test/*.sh, started in a copy of the project."""

import os
import subprocess
import sys

from processes import clean_environment, with_default_signals


def start_wrapper(project, name, words, cwd=None, prefix=(), **environ):
    """Start a wrapper of the copy in a process group of its own."""
    python = os.path.join(project, "test", "system", "small_python.sh")
    return subprocess.Popen(
        list(prefix) + ["bash", os.path.join(project, "test", name)] + list(words),
        cwd=cwd or project,
        env=clean_environment(PYTHON=python, REAL_PYTHON=sys.executable, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
        preexec_fn=with_default_signals,
    )


def run_wrapper(project, name, words, cwd=None, **environ):
    """Run a wrapper of the copy to its end: (exit status, stdout, stderr)."""
    process = start_wrapper(project, name, words, cwd, **environ)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err
