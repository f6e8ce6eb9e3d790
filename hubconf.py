"""The way in from a notebook or another project.

    classifier = torch.hub.load("path/to/this/folder", "trained", "output/photos", source="local")
    model = torch.hub.load("path/to/this/folder", "smlpnet_tiny", source="local", num_classes=10)

`trained` returns the Classifier of predict.load; each model of --list-models is an entry point of its own. The caller
may have modules of the same names as this project's (utils, models, datasets): this project's are imported as
submodules of a package, and their import statements look there first.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.machinery
import os
import sys
import types
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, Sequence

    from commands.classify import Classifier

dependencies = ["torch", "torchvision", "timm", "yaml", "tqdm"]

_ROOT = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "hubconf_%08x" % zlib.crc32(os.fsencode(_ROOT))  # one for each copy of this project
_OWN = {os.path.splitext(name)[0] for name in os.listdir(_ROOT) if name.endswith(".py")}
_OWN |= {name for name in os.listdir(_ROOT) if os.path.exists(os.path.join(_ROOT, name, "__init__.py"))}


class _Finder:
    """Finds the modules of this project as submodules of _PACKAGE; sys.meta_path asks it for every import."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(_PACKAGE + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a module with an `__import__` of its own, which also serves the imports within its functions."""

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__builtins__"] = dict(vars(builtins), __import__=_import)
        super().exec_module(module)


def _import(
    name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
) -> types.ModuleType:
    """Do what the built-in `__import__` does, but find this project's modules within _PACKAGE."""
    top = name.partition(".")[0]
    if level or top not in _OWN:
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = builtins.__import__("%s.%s" % (_PACKAGE, name), globals, locals, fromlist, 0)
    return module if fromlist else sys.modules["%s.%s" % (_PACKAGE, top)]


def _own(name: str) -> Any:
    """Return the module of this project called `name`."""
    if _PACKAGE not in sys.modules:  # torch.hub executes this file anew at each call
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [_ROOT]
        sys.modules[_PACKAGE] = package
        sys.meta_path.insert(0, _Finder)
    return importlib.import_module("%s.%s" % (_PACKAGE, name))


def trained(path: str, device: str = "auto", ema: bool = False, token_layout: str | None = None) -> Classifier:
    """Return a function from an image (a path or a PIL image), or a list of them, to its likeliest classes.

    `path` is a checkpoint or the output folder of a run; see predict.load and commands.classify.Classifier.
    """
    return _own("predict").load(path, device, ema, token_layout)


def _build(name: str, **keywords: Any) -> Any:
    _own("models")  # registers the models with timm
    return _own("runtime.compat").create_model(name, **keywords)


def _entry_points() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield (name, function) for each model; read from a table, so that listing them builds nothing."""
    for name in _own("commands.list_models").names():
        entry = functools.partial(_build, name)
        entry.__doc__ = "Return %s with random weights; keywords: num_classes, image_size, drop_rate, ..." % name
        yield name, entry


globals().update(_entry_points())
