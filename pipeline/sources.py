"""Where the parts of a data set lie, and in which form; importing this module imports neither torch nor Pillow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, Mapping, Sequence
from urllib.parse import urlsplit

from pipeline.layout import check_classes, find_below, list_top
from pipeline.lists import ENDINGS as LISTS
from pipeline.patterns import expand
from runtime.errors import UserError, reason, shown
from storage.files import DEFAULT, Storage, absolute, cache_in, exists, is_folder
from storage.remote import check_url, is_url

ARCHIVES = (".tar", ".zip")
PARQUET = ".parquet"
_PREFIXES = {"train": ("train", "imagenet1k-train"), "val": ("val", "validation", "imagenet1k-validation")}
_IMAGENET = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar")
_FORMS = "a folder with class folders, a list (%s), archives (%s), or Parquet files (%s)" % (
    " ".join(LISTS),
    " ".join(ARCHIVES),
    PARQUET,
)
_PACKED_ENDING = r"\.(tgz|tar\.\w+)$"
_PACKED = r"(%s).*" + _PACKED_ENDING
_NAMED = 5


@dataclass(frozen=True)
class Source:
    """The `part` "train" or "val" of a data set, which messages call `name`, in a form.

    The form is "folder", "list", "archive" or "parquet"; `paths` are the folder, the list, the archives or files. The
    paths of a list's images are relative to `image_root`; `labels` is a file that tells the classes of images which lie
    flat in an archive. All of them are paths or URLs, which `storage` reads.
    """

    form: str
    part: str
    name: str
    paths: tuple[str, ...]
    image_root: str = ""
    labels: str = ""
    storage: Storage = DEFAULT

    @property
    def place(self) -> str:
        """The folder, list, archive or file; the folder of several archives or files."""
        return self.paths[0] if len(self.paths) == 1 else os.path.dirname(self.paths[0])

    @property
    def places(self) -> list[str]:
        """The paths and URLs of all that it consists of."""
        return [path for path in (*self.paths, self.image_root, self.labels) if path]

    @property
    def identity(self) -> list[str]:
        """The absolute paths of all that it consists of."""
        return [absolute(path) for path in self.places]

    @property
    def title(self) -> str:
        """Its path for a message, or its first and last path."""
        if len(self.paths) == 1:
            return shown(self.paths[0])
        return "%s to %s" % (shown(self.paths[0]), shown(os.path.basename(self.paths[-1])))

    def text(self) -> str:
        """Return what was found, for people."""
        count, name = len(self.paths), "Parquet file" if self.form == "parquet" else self.form
        return "%s %s" % (name if count == 1 else "%d %ss" % (count, name), self.title)


def folder_source(path: str, part: str = "") -> Source:
    """Return the Source of a folder that holds a folder of images for each class; its name is that of its part."""
    return Source("folder", part or os.path.basename(path), shown(path), (path,))


def find(
    root: str, parts: Sequence[str], given: Mapping[str, str] | None = None, image_root: str = "", option: str = ""
) -> dict[str, Source]:
    """Return the Source of each of `parts` ("train", "val"), as `given` by an option or found in the folder `root`.

    `option` is what `root` was given by. UserError where there is none, or where two forms contradict.
    """
    given = given or {}
    name = " ".join(filter(None, [option, shown(root)]))
    if not all(given.get(part) for part in parts) and not _is_folder(root, name):
        if exists(root):
            raise UserError("%s is not a folder: name a part of the data by --train-data or --val-data" % name)
        raise UserError("%s: no such folder" % name)
    if image_root and not is_url(image_root) and not os.path.isdir(image_root):
        raise UserError("--image-root %s: no such folder" % shown(image_root))
    found = {}
    for part in parts:
        if given.get(part):
            found[part] = read_source(part, given[part], image_root)
        else:
            found[part] = _find_part(root, part, parts, image_root, name)
    if image_root and not any(source.form == "list" for source in found.values()):
        raise UserError("--image-root is for the paths in a list, and no part of the data is one: leave it out")
    return found


def find_for(options: Any) -> dict[str, Source]:
    """Return the Sources of val and, for a training, of train, that the `options` name; UserError without one."""
    given = {"train": options.train_data, "val": options.val_data}
    parts = ("train", "val") if options.trains else ("val",)
    storage = Storage(options.data_cache, int(options.data_cache_gb * 1e9), options.dist_timeout)
    found = find(options.data_path, parts, given, options.image_root, "--data-path")
    if storage.cache and any(is_url(source.place) for source in found.values()):
        cache_in(storage.cache, storage.cache_bytes)  # the reason why it cannot be used, before anything is read
    return {part: replace(source, storage=storage) for part, source in found.items()}


def find_train(root: str, given: str, image_root: str) -> Source | None:
    """Return the Source of train for an evaluation, which may do without; None where there is no single one."""
    if given:
        return read_source("train", given, image_root)
    try:
        candidates = _candidates(root, "train", image_root)
    except UserError:
        return None
    return candidates[0] if len(candidates) == 1 else None


def read_source(part: str, text: str, image_root: str = "", option: str | None = None) -> Source:
    """Return the Source that `option` names by a folder, a file, or a pattern of archives."""
    name = "%s %s" % ("--%s-data" % part if option is None else option, shown(text))
    if _is_folder(text, name):
        _check_part_folder(name, text)
        return folder_source(text, part)
    if _exists(text, name):
        return _file_source(part, name, text, image_root)
    paths = expand(text)
    if not paths:
        raise UserError("%s: no such file or folder, nor a pattern of some; it takes %s" % (name, _FORMS))
    missing = [path for path, stamp in zip(paths, DEFAULT.stamps(paths)) if isinstance(stamp, FileNotFoundError)]
    if missing:
        raise UserError("%s: %s does not exist%s" % (name, shown(missing[0]), _and_more(len(missing) - 1)))
    if len(paths) == 1:
        return _file_source(part, name, paths[0], image_root)
    forms = {_form_of(path) for path in paths}
    if len(forms) > 1 or forms & {"", "list"}:
        others = [path for path in paths if _form_of(path) != "archive"]
        text = "%s: a pattern takes archives alone (%s), or Parquet files alone (%s), not %s"
        raise UserError(text % (name, " ".join(ARCHIVES), PARQUET, shown(others[0])))
    return Source(forms.pop(), part, name, tuple(paths))


def _is_folder(path: str, name: str) -> bool:
    """Return whether there is a folder; UserError, which begins with `name`, for a URL that cannot be asked for it."""
    if not is_url(path):
        return os.path.isdir(path)
    check_url(path, name)
    try:
        return is_folder(path)
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (name, reason(error))) from None


def _exists(path: str, name: str) -> bool:
    try:
        return exists(path)
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (name, reason(error))) from None


def _check_part_folder(name: str, folder: str) -> None:
    """Raise UserError where a folder does not hold class folders, but other parts or forms of data."""
    folders, files = list_top(folder)
    if "train" in folders and "val" in folders:
        raise UserError("%s holds train/ and val/: pass it as --data-path, or name one of them" % name)
    endings = {os.path.splitext(file)[1] for file in files} & {*ARCHIVES, PARQUET}
    if endings and not folders:
        pattern = os.path.join(folder, "*" + min(endings))
        raise UserError("%s has no class folders: its files are named by a pattern, '%s'" % (name, shown(pattern)))
    check_classes(folder)


def _and_more(count: int) -> str:
    return " (like %d more)" % count if count else ""


def _form_of(path: str) -> str:
    """Return the form of a file by its ending; "" for another."""
    if is_url(path):
        path = urlsplit(path).path
    for form, endings in (("list", LISTS), ("archive", ARCHIVES), ("parquet", PARQUET)):
        if path.lower().endswith(endings):
            return form
    return ""


def _file_source(part: str, name: str, path: str, image_root: str) -> Source:
    form = _form_of(path)
    if form == "list":
        return Source("list", part, name, (path,), image_root or os.path.dirname(path) or ".")
    if form:
        return Source(form, part, name, (path,), labels=_labels_beside(path))
    advice = "; unpack it once, such as by gunzip" if re.search(_PACKED_ENDING, path) else ""
    raise UserError("%s: it takes %s%s" % (name, _FORMS, advice))


def _labels_beside(path: str) -> str:
    """Return the file that tells the classes of ImageNet's validation images, which lie flat in an archive; or ""."""
    folder, name = os.path.split(path)
    if name != _IMAGENET["val"]:
        return ""
    names = [*("val" + ending for ending in LISTS), *DEVKITS]
    found = [os.path.join(folder, name) for name in names if exists(os.path.join(folder, name))]
    if not found:
        text = "%s does not tell the classes of its images: put %s beside it, or a list of names and classes as %s"
        raise UserError(text % (shown(path), DEVKITS[0], " or ".join(names[:4])))
    return found[0]


def _find_part(root: str, part: str, parts: Sequence[str], image_root: str, name: str) -> Source:
    found = _candidates(root, part, image_root)
    if len(found) > 1:
        text = (
            "%s: it holds the %s images twice, as %s and as %s: name one of them by --%s-data, or move the other away"
        )
        raise UserError(text % (name, part, found[0].text(), found[1].text(), part))
    if found:
        if found[0].form == "folder":
            check_classes(found[0].place)
        return found[0]
    if part in list_top(root)[0]:
        check_classes(os.path.join(root, part))
    below = find_below(root, parts)
    remedy = "; %s has: name that folder" % shown(below) if below else ""
    remedy = remedy or ", nor a list, archives or Parquet files of that name"
    packed = [file for file in list_top(root)[1] if re.fullmatch(_PACKED % "|".join(_PREFIXES[part]), file)]
    if packed:
        remedy += "; compressed as %s is, single images cannot be read: unpack it once, such as by gunzip"
        remedy %= shown(packed[0])
    raise UserError("%s: it has no folder %s/%s" % (name, part, remedy))


def _candidates(root: str, part: str, image_root: str) -> list[Source]:
    """Return each form in which the folder `root` holds the images of `part`."""
    folders, files = list_top(root)
    found = []
    if part in folders and _has_folders(os.path.join(root, part)):
        found.append(folder_source(os.path.join(root, part)))
    archives = _archives(root, files, part)
    is_labelled_by_list = archives == [[_IMAGENET["val"]]] and part == "val"
    for ending in LISTS if not is_labelled_by_list else ():
        if part + ending in files:
            path = os.path.join(root, part + ending)
            found.append(Source("list", part, shown(path), (path,), image_root or root))
    for names in archives:
        paths = tuple(os.path.join(root, name) for name in names)
        source = Source("archive", part, "", paths, labels=_labels_beside(paths[0]))
        found.append(replace(source, name=source.title))
    for folder in (root, *(os.path.join(root, name) for name in folders if name == "data")):
        for names in _parquet_files(folder, files if folder is root else list_top(folder)[1], part):
            source = Source("parquet", part, "", tuple(os.path.join(folder, name) for name in names))
            found.append(replace(source, name=source.title))
    return found


def _has_folders(folder: str) -> bool:
    """Return whether `folder` may hold classes; where it cannot be listed, too: that is reported later."""
    try:
        return bool(list_top(folder)[0])
    except UserError:
        return True


def _archives(folder: str, files: Sequence[str], part: str) -> list[list[str]]:
    """Return the groups of names of archives that hold `part`: one archive, or shards of one naming."""
    groups: dict[str, list[str]] = {}
    for name in files:
        stem, ending = os.path.splitext(name)
        if name == _IMAGENET[part] or (stem in _PREFIXES[part] and ending in ARCHIVES):
            groups[name] = [name]
        for prefix in _PREFIXES[part] if ending == ".tar" else ():
            if re.fullmatch(re.escape(prefix) + r"[-_.]?\d[\w.-]*", stem):
                groups.setdefault(prefix, []).append(name)
    return _complete(groups, folder)


def _parquet_files(folder: str, files: Sequence[str], part: str) -> list[list[str]]:
    """Return the groups of names of Parquet files that hold `part`, such as train-00000-of-00064.parquet."""
    groups: dict[str, list[str]] = {}
    for name in files:
        for prefix in _PREFIXES[part]:
            if re.fullmatch(re.escape(prefix) + r"([-_.\d].*)?" + re.escape(PARQUET), name):
                groups.setdefault(prefix, []).append(name)
    return _complete(groups, folder)


def _complete(groups: dict[str, list[str]], folder: str) -> list[list[str]]:
    """Return the groups of names, sorted; UserError where one lacks some."""
    for names in groups.values():
        names.sort()
        _check_none_is_missing(folder, names)
    return [groups[name] for name in sorted(groups)]


def _check_none_is_missing(folder: str, names: Sequence[str]) -> None:
    """Raise UserError where the numbers of shards have a gap, or are fewer than their names say (-of-00064)."""
    found = [re.fullmatch(r"(.*?)(\d+)(-of-(\d+))?((?:-[0-9a-f]{16})?\.[a-z]+)", name) for name in names]
    if not all(found) or len({(match[1], match[3]) for match in found if match}) > 1:
        return  # numbered in some other way
    numbers = sorted(int(match[2]) for match in found if match)
    count = int(found[0][4]) if found[0] and found[0][4] else 0
    wanted = set(range(numbers[0], numbers[-1] + 1))
    if count and numbers[0] <= 1:
        wanted |= set(range(numbers[0], numbers[0] + count))
    missing = sorted(wanted - set(numbers))
    if missing and found[0]:
        ending = found[0][5][-len(PARQUET) :]
        name = "%s%0*d%s%s" % (found[0][1], len(found[0][2]), missing[0], found[0][3] or "", ending)
        text = (
            "%s is missing%s: a training would be one without its images; name the others by --train-data, --val-data"
        )
        raise UserError(text % (shown(os.path.join(folder, name)), _and_more(len(missing) - 1)))
