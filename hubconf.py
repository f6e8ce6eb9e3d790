"""The way in from a notebook or another project.

    classifier = torch.hub.load("path/to/this/folder", "trained", "output/photos", source="local")
    model = torch.hub.load("path/to/this/folder", "smlpnet_tiny", source="local", num_classes=10)

`trained` returns the Classifier of predict.load; each model of --list-models is an entry point of its own. Other
projects have modules of the same names (utils, models, datasets): this project's are imported beside them, and
sys.modules and sys.path are afterwards as they were before.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
import types
from typing import Any, Callable, Iterator

dependencies = ["torch", "torchvision", "timm", "yaml", "tqdm"]

_ROOT = os.path.dirname(os.path.abspath(__file__))
_OWN = {os.path.splitext(name)[0] for name in os.listdir(_ROOT) if name.endswith(".py")} - {"hubconf"}
_OWN |= {name for name in os.listdir(_ROOT) if os.path.exists(os.path.join(_ROOT, name, "__init__.py"))}
_KEPT = "modules of " + _ROOT
# This project's modules by name, while another project's stand in sys.modules; torch.hub executes this file each time.
_modules: dict[str, Any] = sys.modules.setdefault(_KEPT, types.ModuleType(_KEPT)).__dict__.setdefault("modules", {})
_lock = threading.RLock()


class _OwnModules:
    """While entered, imports find this project's modules; the other project's are put back at the end."""

    depth = 0
    others: dict[str, Any] = {}

    def __enter__(self) -> None:
        _lock.acquire()
        type(self).depth += 1
        if self.depth == 1:
            type(self).others = _take_out()
            sys.modules.update(_modules)
            sys.path.insert(0, _ROOT)
            importlib.invalidate_caches()

    def __exit__(self, *_: object) -> None:
        if self.depth == 1:
            _modules.update(_take_out())
            sys.modules.update(self.others)
            sys.path.remove(_ROOT)
        type(self).depth -= 1
        _lock.release()


def _take_out() -> dict[str, Any]:
    """Remove the modules that bear this project's names from sys.modules, and return them."""
    names = [name for name in sys.modules if name.split(".")[0] in _OWN]
    return {name: sys.modules.pop(name) for name in names}


def trained(path: str, device: str = "auto", ema: bool = False, token_layout: str | None = None) -> _HubClassifier:
    """Return a function from an image (a path or a PIL image), or a list of them, to its likeliest classes.

    `path` is a checkpoint or the output folder of a run; see predict.load and commands.classify.Classifier.
    """
    with _OwnModules():
        import predict

        return _HubClassifier(predict.load(path, device, ema, token_layout))


class _HubClassifier:
    """A Classifier whose calls find this project's modules, whatever the calling project imports."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def __call__(self, images: Any, top: int = 5) -> Any:
        with _OwnModules():
            return self.classifier(images, top)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.classifier, name)


def _build(name: str, **keywords: Any) -> Any:
    with _OwnModules():
        import models  # noqa: F401 - registers the models with timm
        from runtime.compat import create_model

        return create_model(name, **keywords)


def _entry_points() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield (name, function) for each model; read from a table, so that listing them builds nothing."""
    with _OwnModules():
        from commands import list_models

        for name in list_models.names():
            entry = functools.partial(_build, name)
            entry.__doc__ = "Return %s with random weights; keywords: num_classes, image_size, drop_rate, ..." % name
            yield name, entry


globals().update(_entry_points())
