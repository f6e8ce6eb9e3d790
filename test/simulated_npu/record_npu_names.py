"""Record the names of Ascend's torch_npu that this project may use, for test/unit/runtime/test_npu_names.py.

    pip download --no-deps torch-npu
    python test/simulated_npu/record_npu_names.py torch_npu-*.whl test/golden/torch_npu_names.json

Reads the wheel's sources and imports nothing, so it needs neither CANN nor an NPU.
"""

import argparse
import ast
import json
import re
import zipfile

MODULES = ("torch_npu.npu", "torch_npu.npu.amp", "torch_npu.npu.utils", "torch_npu.optim")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel")
    parser.add_argument("output")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        sources = Sources(wheel)
        names = {module: sources.public_names(module) for module in MODULES}
    version = re.match(r"torch_npu-([^-]+)-", options.wheel.rsplit("/", 1)[-1]).group(1)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"version": version, "names": names}, file, indent=1, sort_keys=True)
        file.write("\n")


class Sources:
    """The Python sources of a wheel, parsed."""

    def __init__(self, wheel):
        self.wheel = wheel
        self.files = set(wheel.namelist())
        self.known = {}

    def path_of(self, module):
        base = module.replace(".", "/")
        return base + "/__init__.py" if base + "/__init__.py" in self.files else base + ".py"

    def public_names(self, module):
        """Return {name: its parameters or attributes in one string} of the public names of `module`."""
        found = {}
        for name, (home, node) in self.bindings(module).items():
            described = self.describe(home, node)
            if not name.startswith("_") and described is not None:
                found[name] = " ".join(described)
        return found

    def bindings(self, module):
        """Return {name: (module, node of its definition)} at the top level of `module`, with its imports."""
        path = self.path_of(module)
        if module in self.known or path not in self.files:
            return self.known.get(module, {})
        package = module if path.endswith("__init__.py") else module.rsplit(".", 1)[0]
        found = self.known[module] = {}  # known before it is complete: modules import each other
        for node in ast.parse(self.wheel.read(path).decode()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name] = (module, node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = (module, node.value)
            elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("torch_npu")):
                home = ".".join([package] * bool(node.level) + [node.module] * bool(node.module))
                theirs = self.bindings(home)
                for alias in node.names:
                    if alias.name == "*":
                        found.update(theirs)
                    elif alias.name in theirs:
                        found[alias.asname or alias.name] = theirs[alias.name]
        return found

    def describe(self, home, node):
        """Return the parameters of a function or class, or the attributes of a settings object; otherwise None."""
        if isinstance(node, ast.FunctionDef):
            return _parameters(node)
        if isinstance(node, ast.ClassDef):
            makers = [
                child
                for child in node.body
                if isinstance(child, ast.FunctionDef) and child.name in ("__init__", "__new__")
            ]
            return _parameters(makers[0])[1:] if makers else []
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            _, maker = self.bindings("%s.%s" % (home, node.func.value.id)).get(node.func.attr, (None, None))
            return _settable(maker) if isinstance(maker, ast.ClassDef) else None
        return None


def _parameters(function):
    every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    names = [argument.arg for argument in every]
    return names + ["**"] * bool(function.args.kwarg)


def _settable(maker):
    """Return the names that `__setattr__` of a settings class accepts."""
    return sorted(
        {
            child.comparators[0].value
            for child in ast.walk(maker)
            if isinstance(child, ast.Compare) and isinstance(child.comparators[0], ast.Constant)
            if isinstance(child.left, ast.Name) and child.left.id == "name"
        }
    )


if __name__ == "__main__":
    main()
