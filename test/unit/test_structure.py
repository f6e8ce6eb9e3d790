"""The rules of the house: imports go down, and only runtime/ names hardware, versions and precision."""

import ast
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LEVELS = {
    "runtime.errors": 0,
    "runtime.compat": 0,
    "runtime.seeding": 0,
    "runtime.binding": 0,
    "runtime.stops": 0,
    "runtime.watchdog": 0,
    "runtime.rounds": 0,
    "runtime.tensors_only": 0,
    "runtime.launched": 1,
    "runtime.download": 1,
    "runtime.device": 1,
    "runtime.distributed": 2,
    "runtime.amp": 3,
    "runtime.ema": 3,
    "runtime.compiling": 2,
    "runtime.exporting": 1,
    "runtime.checkpoint": 3,
    "utils": 4,
    "pixels": 3,
    "confusion": 4,
    "samplers": 4,
    "command_line": 4,
    "config_files": 4,
    "recipe_options": 5,
    "trackers": 5,
    "completion": 8,
    "dry_run": 9,
    "batches": 4,
    "files": 4,
    "pictures": 4,
    "fast_pictures": 5,
    "args": 6,
    "optim": 5,
    "losses": 5,
    "index": 5,
    "datasets": 6,
    "models": 6,
    "models.layers": 4,
    "models.resampling": 4,
    "models.smlp": 5,
    "models.spach": 5,
    "models.shiftvit": 5,
    "catalogue": 8,
    "contact_sheet": 5,
    "steps": 6,
    "engine": 7,
    "teacher": 7,
    "transfer": 7,
    "trained": 7,
    "output": 7,
    "record": 8,
    "build": 8,
    "main": 10,
    "deployment": 8,
    "predict": 9,
    "export_onnx": 9,
    "benchmarks.traffic": 9,
    "benchmarks.timing": 9,
    "benchmarks.report": 9,
    "benchmarks.photos": 9,
    "benchmarks.start": 9,
    "benchmarks.runs": 9,
    "benchmarks.ledger": 10,
    "benchmarks.step": 10,
    "benchmarks.data": 10,
    "benchmarks.e2e": 10,
    "benchmarks.scale": 10,
    "benchmarks.project": 10,
    "benchmark": 11,
}
NAMES_BELOW = {"cuda", "npu", "is_cuda", "float16", "bfloat16", "half", "__version__", "autocast_mode", "backends"}


def path_of(module):
    path = os.path.join(ROOT, *module.split("."))
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else path + ".py"


def tree_of(module):
    with open(path_of(module), encoding="utf-8") as file:
        return ast.parse(file.read())


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            for alias in node.names:
                yield "%s.%s" % (node.module, alias.name)


def test_every_module_has_a_level():
    found = {name[:-3] for name in os.listdir(ROOT) if name.endswith(".py")}
    for package in ("runtime", "models", "benchmarks"):
        names = os.listdir(os.path.join(ROOT, package))
        found |= {"%s.%s" % (package, name[:-3]) for name in names if name.endswith(".py") and name != "__init__.py"}
    assert found | {"models"} == set(LEVELS)


@pytest.mark.parametrize("module", sorted(LEVELS))
def test_imports_go_down(module):
    for name in imports_of(tree_of(module)):
        if name in LEVELS and name != module:
            assert LEVELS[name] < LEVELS[module], "%s imports %s" % (module, name)
    if module == "engine":
        assert "args" not in set(imports_of(tree_of(module)))


@pytest.mark.parametrize("module", sorted(name for name in LEVELS if not name.startswith("runtime")))
def test_hardware_is_named_in_runtime_only(module):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NAMES_BELOW, "%s:%d .%s" % (module, node.lineno, node.attr)
    for name in imports_of(tree_of(module)):
        assert name.split(".")[0] not in ("timm", "apex", "torch_npu"), name


def all_sources():
    """The project's own Python files, without environments or data that lie in the same folder."""
    for folder, folders, files in os.walk(ROOT):
        ours = ["models", "runtime", "benchmarks", "test", "tools", "unit", "system", "reference"]
        ours += ["simulated_npu", "torch_npu", "npu", "stand_in_apex", "nvidia", "ascend", "pypi", "apex"]
        folders[:] = [name for name in folders if name in ours]
        for name in files:
            if name.endswith(".py"):
                yield os.path.join(folder, name)


def test_functions_stay_short():
    for path in all_sources():
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                statements = sum(isinstance(child, ast.stmt) for child in ast.walk(node)) - 1
                assert statements <= 40, "%s: %s has %d statements" % (path, node.name, statements)


def test_timm_is_imported_in_one_file():
    users = set()
    for path in all_sources():
        if os.sep + "test" + os.sep in path:
            continue
        with open(path, encoding="utf-8") as file:
            if any(name.split(".")[0] == "timm" for name in imports_of(ast.parse(file.read()))):
                users.add(os.path.relpath(path, ROOT))
    assert users == {os.path.join("runtime", "compat.py")}
