"""Every name of torch_npu that the code uses is in the real package, as record_npu_names.py has recorded it."""

import ast
import json
import os
import pathlib

import pytest
from paths import ROOT

SIMULATOR = os.path.join(ROOT, "test", "simulated_npu", "torch_npu")
PACKAGES = ["benchmarks", "checkpoints", "commands", "models", "options", "pipeline", "results", "runtime"]
PACKAGES += ["tools", "training"]  # as in test_structure.py

with open(os.path.join(ROOT, "test", "golden", "torch_npu_names.json"), encoding="utf-8") as recording:
    NAMES = json.load(recording)["names"]


def parsed(path):
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read())


def project_files():
    """Yield every Python file of the project but its tests."""
    for pattern in ["*.py"] + [name + "/**/*.py" for name in PACKAGES]:
        for path in sorted(pathlib.Path(ROOT).glob(pattern)):
            yield str(path)


def name_of(node):
    """Return the dotted name of `node` if it begins with torch_npu, otherwise None.

    torch.npu is torch_npu.npu; so are `self._module` and `getattr(torch, kind)`, which may be torch.cuda too.
    """
    if isinstance(node, ast.Name):
        return "torch_npu" if node.id == "torch_npu" else None
    if isinstance(node, ast.Attribute):
        whole = ast.unparse(node)
        if whole in ("torch.npu", "self._module"):
            return "torch_npu.npu"
        base = name_of(node.value)
        return base and "%s.%s" % (base, node.attr)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
        owner, name = node.args[:2]
        if ast.unparse(owner) == "torch" and not isinstance(name, ast.Constant):
            return "torch_npu.npu"
        base = name_of(owner)
        if base and isinstance(name, ast.Constant):
            return "%s.%s" % (base, name.value)
    return None


def dictionary_keys(tree, name):
    """Yield the keys of the dictionaries that are assigned to `name`, which `**name` passes."""
    for node in ast.walk(tree):
        is_dictionary = isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        if is_dictionary and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            yield from (key.value for key in node.value.keys)


def uses_of(tree):
    """Yield (dotted name, keyword or None, line) of each use of torch_npu in `tree`."""
    for node in ast.walk(tree):
        if name_of(node):
            yield name_of(node), None, node.lineno
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for scope in functions + [node for node in tree.body if isinstance(node, (ast.Assign, ast.Expr))]:
        for node in ast.walk(scope):
            name = name_of(node.func) if isinstance(node, ast.Call) else None
            for keyword in node.keywords if name else ():
                for key in [keyword.arg] if keyword.arg else dictionary_keys(scope, keyword.value.id):
                    yield name, key, node.lineno


def is_real(name, keyword=None):
    """Return whether torch_npu has `name` (a module or one of its public names), with the parameter `keyword`."""
    if keyword is None and any(module == name or module.startswith(name + ".") for module in NAMES):
        return True
    module, last = name.rsplit(".", 1)
    if module not in NAMES:  # an attribute of a settings object
        outer, settings = module.rsplit(".", 1)
        return last in NAMES.get(outer, {}).get(settings, "").split()
    described = NAMES[module].get(last)
    return described is not None and (keyword is None or keyword in described.split())


@pytest.mark.skipif(not hasattr(ast, "unparse"), reason="reading the sources needs Python 3.9")
def test_the_code_uses_real_names():
    used = set()
    for path in project_files():
        for name, keyword, line in uses_of(parsed(path)):
            assert is_real(name, keyword), "%s:%d: torch_npu has no %s %s" % (path, line, name, keyword or "")
            used.add((name, keyword))
    for name, keyword in (
        ("torch_npu.npu.set_device", None),
        ("torch_npu.npu.set_compile_mode", "jit_compile"),
        ("torch_npu.npu.conv.allow_hf32", None),
        ("torch_npu.npu.get_device_name", None),
        ("torch_npu.npu.utils.is_support_inf_nan", None),
        ("torch_npu.npu.amp.GradScaler", "growth_interval"),
    ):
        assert (name, keyword) in used


def test_an_invented_name_is_noticed():
    for source in (
        "torch.npu.sync()",
        "torch_npu.npu.set_compile_mode(jit=False)",
        "torch.npu.conv.allow_tf32 = False",
        "import torch_npu\ntorch_npu.npu.amp.Scaler",
        "getattr(torch, kind).device_counts()",
        "def f():\n    options = {'init': 1}\n    return torch.npu.amp.GradScaler(**options)",
    ):
        if hasattr(ast, "unparse"):
            assert not all(is_real(name, keyword) for name, keyword, _ in uses_of(ast.parse(source))), source


@pytest.mark.parametrize(
    "module, file",
    [
        ("torch_npu.npu", os.path.join("npu", "__init__.py")),
        ("torch_npu.npu", os.path.join("npu", "random.py")),
        ("torch_npu.npu", os.path.join("npu", "streams.py")),
        ("torch_npu.npu.amp", os.path.join("npu", "amp.py")),
        ("torch_npu.npu.utils", os.path.join("npu", "utils.py")),
        ("torch_npu.optim", "optim.py"),
    ],
)
def test_the_simulated_npu_offers_nothing_else(module, file):
    for node in parsed(os.path.join(SIMULATOR, file)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            described = NAMES[module][node.name].split()
            makers = [child for child in getattr(node, "body", []) if getattr(child, "name", "") == "__init__"]
            arguments = (makers[0] if isinstance(node, ast.ClassDef) else node).args.args
            names = [argument.arg for argument in arguments if argument.arg != "self"]
            assert "**" in described or names == described[: len(names)], node.name
