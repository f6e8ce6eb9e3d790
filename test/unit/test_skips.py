"""Tests must not vanish: a skip is listed with its reason or fails the run, and what tests need is installed."""

import os
import subprocess
import sys

import listed_skips
import missing_packages
import pytest
from paths import HELPERS, ROOT, TEST

SKIPPED = """
import pytest
{module}
@pytest.mark.skip(reason="later")
def test_it():
    pass
@pytest.mark.xfail
def test_known():
    assert False
"""


@pytest.mark.parametrize("module", ["", "pytest.importorskip('no_such_package')"], ids=["a test", "a file"])
def test_a_skip_that_is_not_listed_fails_under_ci(tmp_path, module):
    path = tmp_path / "test_vanishing.py"
    path.write_text(SKIPPED.format(module=module))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "listed_skips", "-p", "no:cacheprovider", str(path)]
    environ = dict(os.environ, PYTHONPATH=HELPERS, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    for ci, status in (("", 0 if not module else 5), ("true", 1)):
        done = subprocess.run(command, env=dict(environ, CI=ci), cwd=str(tmp_path), stdout=subprocess.PIPE)
        out = done.stdout.decode()
        assert done.returncode == status, out
        assert ("1 skipped tests are not listed in test/skips.txt" in out) == bool(ci)
    assert "test_vanishing.py | %s" % ("later" if not module else "could not import 'no_such_package'") in out


def test_rows_name_the_stack_the_file_and_the_reason():
    rows = [("old", "unit/test_a.py", "needs * [1]"), ("any", "system/*", "no room")]
    for stack, file, reason, want in (
        ("old", "unit/test_a.py", "needs torch 2 [1]", True),
        ("2", "unit/test_a.py", "needs torch 2 [1]", False),
        ("old", "unit/test_b.py", "needs torch 2 [1]", False),
        ("old", "unit/test_a.py", "needs torch 21", False),
        ("2", "system/test_c.py", "no room", True),
        ("2", "system/test_c.py", "no room here", False),
    ):
        assert listed_skips.is_listed(rows, stack, file, reason) is want


FILES = [os.path.relpath(os.path.join(folder, name), TEST) for folder, _, names in os.walk(TEST) for name in names]


def test_every_file_of_tests_is_run():
    """run_tests.sh names the folders; system/test_fused.py runs what is in interpreted/."""
    for file in FILES:
        if os.path.basename(file).startswith("test_") and file.endswith(".py"):
            assert file.startswith(("unit/", "system/", "simulated_npu/", "interpreted/")), file


def test_every_row_is_of_a_file_that_is_there():
    for stack, pattern, reason in listed_skips.read_rows():
        assert stack in ("2", "old", "any") and reason
        assert any(listed_skips.matches(file, pattern) for file in FILES), pattern


def test_missing_packages_are_found_without_an_import(tmp_path, capsys):
    (tmp_path / "inner.txt").write_text("pytest>=7\nNo.Such_Package>=1,<2  # why\n")
    (tmp_path / "outer.txt").write_text("# all\n-r inner.txt\n\nPyYAML\nnone-such[extra]==1\n")
    missing_packages.main(["-r", str(tmp_path / "outer.txt"), "tqdm", "nothing"])
    assert capsys.readouterr().out == "No.Such_Package none-such nothing\n"


def bash(line, **variables):
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=dict(os.environ, **variables),
        capture_output=True,
    )


def test_an_interpreter_without_a_package_is_refused_by_name(tmp_path):
    (tmp_path / "more.txt").write_text("pytest\nno-such-package\n")
    use = ". test/environment.sh; root=%s; use_environment more.txt" % tmp_path
    lib = tmp_path / "test"
    os.symlink(TEST, str(lib))
    done = bash(use, PYTHON=sys.executable)
    assert done.returncode == 1 and done.stderr.startswith(
        b"[Error] PYTHON=%s lacks no-such-package: run " % sys.executable.encode()
    )


@pytest.mark.parametrize("name", ["run_tests", "cross_stack"])
def test_a_script_prints_its_usage(name):
    done = bash("bash test/%s.sh --help" % name, PYTHON="/no/such/python")
    assert done.returncode == 0 and done.stderr == b"" and b"bash test/%s.sh " % name.encode() in done.stdout


def test_one_interpreter_is_no_pair():
    done = bash("bash test/cross_stack.sh python3")
    assert done.returncode == 2 and done.stderr.startswith(b"[Error] name two interpreters or more: ")
