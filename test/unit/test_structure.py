"""The rules of the house: imports go down, and only runtime/ names hardware, versions and precision."""

import ast
import os
import pathlib

import pytest
from paths import ROOT

# From the top to the bottom; a file imports only from its own package and from the rows below its own.
ROWS = [
    {"main", "predict", "export_onnx", "benchmark", "hubconf"},
    {"benchmarks"},
    {"tools"},
    {"commands"},
    {"engine"},
    {"training"},
    {"results"},
    {"datasets"},
    {"checkpoints"},
    {"pipeline"},
    {"models"},
    {"options"},
    {"storage"},
    {"utils"},
    {"runtime"},
]
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}
NAMES_BELOW = {"cuda", "npu", "is_cuda", "float16", "bfloat16", "half", "__version__", "autocast_mode", "backends"}
ONE_FILE = {"timm": "runtime/compat.py", "apex": "runtime/amp.py", "torch_npu": "runtime/device.py"}


def files_of(*parts):
    return sorted(path.relative_to(ROOT).as_posix() for path in pathlib.Path(ROOT).glob("/".join(parts)))


PRODUCT = files_of("*.py") + [path for name in ROW_OF for path in files_of(name, "**", "*.py")]
SOURCES = PRODUCT + files_of("test", "**", "*.py")


def tree_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return ast.parse(file.read())


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room_of(path):
    return path.split("/")[0] if "/" in path else path[: -len(".py")]


def test_no_two_files_of_tests_share_a_name():
    """pytest runs test/unit and test/simulated_npu in one process, where the second of two would not be imported."""
    names = [path.split("/")[-1] for path in files_of("test", "**", "test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_file_has_a_row():
    assert {room_of(path) for path in files_of("*.py") + files_of("*", "*.py")} - {"test", "data"} == set(ROW_OF)


def test_few_programs_lie_at_the_top():
    assert len([path for path in PRODUCT if "/" not in path]) <= 8


@pytest.mark.parametrize("path", PRODUCT)
def test_imports_go_down(path):
    own = room_of(path)
    for name in imports_of(tree_of(path)):
        room = name.split(".")[0]
        if room in ROW_OF and room != own:
            assert ROW_OF[room] > ROW_OF[own], "%s imports %s" % (path, name)


@pytest.mark.parametrize("path", [path for path in PRODUCT if not path.startswith("runtime/")])
def test_hardware_is_named_in_runtime_only(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NAMES_BELOW, "%s:%d .%s" % (path, node.lineno, node.attr)


@pytest.mark.parametrize("package", sorted(ONE_FILE))
def test_a_library_is_imported_in_one_file(package):
    users = {path for path in PRODUCT if package in {name.split(".")[0] for name in imports_of(tree_of(path))}}
    assert users == {ONE_FILE[package]}


@pytest.mark.parametrize("path", PRODUCT)
def test_spans_are_measured_by_a_clock_that_nobody_sets(path):
    """time.monotonic and time.perf_counter: where the time of day is set back, a wait by time.time grows."""
    for node in ast.walk(tree_of(path)):
        is_time = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
        assert not is_time or node.attr != "time", "%s:%d" % (path, node.lineno)


def test_functions_stay_short():
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                statements = sum(isinstance(child, ast.stmt) for child in ast.walk(node)) - 1
                assert statements <= 40, "%s: %s has %d statements" % (path, node.name, statements)
