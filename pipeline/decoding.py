"""Which files are images, and how they are decoded: an evaluation must do both as the training did."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from options.command_line import extension
from runtime.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """The `extensions` of images beside torchvision's, and whether images are rotated as their EXIF data says."""

    extensions: tuple[str, ...] = ()
    exif_transpose: bool = False

    @property
    def endings(self) -> tuple[str, ...]:
        """The extensions of all images, in lower case, for str.endswith."""
        return (*IMG_EXTENSIONS, *self.extensions)

    def as_options(self) -> dict[str, Any]:
        """Return the options that ask for this, as a checkpoint records them."""
        return {"extensions": list(self.extensions) or None, "exif_transpose": self.exif_transpose}


AS_PUBLISHED = Decoding()


def choose(extensions: Sequence[str] | None, exif_transpose: bool | None, recorded: Mapping[str, Any]) -> Decoding:
    """Return the Decoding that the options ask for; where one is None, that of a checkpoint's `recorded` options.

    UserError where a library is missing that reads one of the extensions which are asked for.
    """
    for name in extensions or ():
        check_plugin(name)
    if extensions is None:
        extensions = _recorded_extensions(recorded.get("extensions"))
    if exif_transpose is None:
        exif_transpose = recorded.get("exif_transpose") is True
    return Decoding(tuple(sorted(set(extensions) - set(IMG_EXTENSIONS))), exif_transpose)


def _recorded_extensions(recorded: Any) -> list[str]:
    try:
        return [extension(text) for text in recorded or ()]
    except (TypeError, argparse.ArgumentTypeError):
        raise UserError("the checkpoint's option extensions is no list of extensions: pass --extensions") from None


class Plugin(NamedTuple):
    """A library that teaches Pillow a format: its module, the function of it to call, and its package."""

    format: str
    module: str
    function: str
    package: str


_HEIF = Plugin("HEIC", "pillow_heif", "register_heif_opener", "pillow-heif")
_AVIF = Plugin("AVIF", "pillow_avif", "", "pillow-avif-plugin")  # registers itself when it is imported
PLUGINS = {".heic": _HEIF, ".heif": _HEIF, ".hif": _HEIF, ".avif": _AVIF}
_OF_BRANDS = dict.fromkeys([b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"], _HEIF)
_OF_BRANDS.update({b"avif": _AVIF, b"avis": _AVIF})
LONGEST_SIGN = 12  # bytes at the beginning of a file that tell its format


def plugin_for(sign: bytes) -> Plugin | None:
    """Return the Plugin that reads a file which begins with the bytes `sign`; None where none is known."""
    return _OF_BRANDS.get(sign[8:12]) if sign[4:8] == b"ftyp" else None


def load_plugin(plugin: Plugin) -> None:
    """Register the plugin with Pillow; ValueError where it is not installed."""
    try:
        module = importlib.import_module(plugin.module)
    except ImportError:
        raise ValueError("%s is not read: pip install %s" % (plugin.format, plugin.package)) from None
    if plugin.function:
        getattr(module, plugin.function)()


def check_plugin(name: str) -> None:
    """Raise UserError where files of the extension `name` need a library that is missing."""
    for package in missing_packages([name]):
        raise UserError("--extensions %s: %s is not read: pip install %s" % (name, PLUGINS[name].format, package))


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return the packages that are not installed and without which files of these extensions cannot be read."""
    plugins = {PLUGINS[name] for name in names if name in PLUGINS}
    if pillow_reads_avif():
        plugins.discard(_AVIF)
    return sorted(plugin.package for plugin in plugins if importlib.util.find_spec(plugin.module) is None)


def pillow_reads_avif() -> bool:
    """Return whether Pillow itself reads AVIF, as of version 11.3."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return False
    return bool(AvifImagePlugin.SUPPORTED)


def readable_extensions() -> set[str]:
    """Return the extensions of the images that Pillow reads, or a plugin that is known here."""
    Image.init()
    readable = {name for name, format in Image.registered_extensions().items() if format in Image.OPEN}
    refused = {name for name, format in Image.registered_extensions().items() if format in _NO_PICTURES}
    return (readable - refused) | set(PLUGINS)


_NO_PICTURES = ("EPS", "MPEG", "HDF5", "BUFR", "GRIB", "WMF")  # that Pillow identifies, but does not decode alone
