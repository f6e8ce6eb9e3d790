"""What lies at the URL of `--mirror`: files named by their contents, and mirror.json, which names a whole set of them.

A set is uploaded whole before mirror.json names it, so whoever reads that, at any moment, finds all of its files. Those
of the set before stay, and so do those of manifests that were set aside as mirror.json.TIME. Of checkpoints this module
knows the names alone: it runs in a process of its own, without torch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import time
import uuid
from typing import Any, Callable, Dict, Mapping, TypeVar

from runtime.errors import RunError, UserError, one_line, reason, shown
from storage import remote
from utils import digest_of, name_by_time, parse_json, replacing, sync_file, sync_folder, to_json

Manifest = Dict[str, Any]
_Result = TypeVar("_Result")

MANIFEST, FORMAT = "mirror.json", 1
NAMES = ("config.yaml", "best.pth", "checkpoint.pth")  # restored in this order: what a run looks for comes last
_OBJECT = re.compile(r"(%s)\.[0-9a-f]{16}" % "|".join(map(re.escape, NAMES)))
_ASIDE = re.compile(re.escape(MANIFEST) + r"\.\d{8}-\d{6}(-\d+)?")
_NOT_WRITTEN = ("http", "https")


class MirrorError(RunError):
    """Something that no waiting mends; the message is for the user."""


class Superseded(MirrorError):  # noqa: N818 - no fault
    """A newer set waits to be uploaded, so this one is given up."""


class Mirror:
    """The folder at a `url`. A lost network is waited for up to `patience_s`, unless `is_moot()` by then."""

    def __init__(self, url: str, patience_s: float, is_moot: Callable[[], bool] = lambda: False) -> None:
        self.url, self.patience_s, self.is_moot = url.rstrip("/"), patience_s, is_moot
        self.name = "--mirror %s" % shown(remote.without_password(url))
        self.writer = uuid.uuid4().hex
        self.seen: Manifest | None = None
        self._digests: dict[tuple[int, ...], str] = {}
        self._aside: dict[str, set[str]] = {}  # the objects of manifests that were set aside

    def open(self, may_write: bool = True) -> Manifest | None:
        """Return the manifest, None where there is none; UserError where the URL cannot be used."""
        remote.check_url(self.url, self.name)
        if self.url.partition("://")[0] in _NOT_WRITTEN:
            raise UserError("%s can only be read: name a URL of object storage, as s3://BUCKET/FOLDER" % self.name)
        try:
            self.seen = self._read()
            if may_write:
                self._test_writing()
        except OSError as error:
            raise UserError("%s cannot be used: %s" % (self.name, reason(error))) from None
        except MirrorError as error:
            raise UserError("%s: %s" % (self.name, error)) from None
        return self.seen

    def _test_writing(self) -> None:
        test = "%s.test-%s" % (MANIFEST, self.writer[:16])
        self._act(lambda system, path: system.pipe_file(path, b"test"), test)
        with contextlib.suppress(OSError):  # one may be allowed to write and not to remove
            self._act(lambda system, path: system.rm_file(path), test)

    def upload(self, run: str, epoch: int, step: int, files: Mapping[str, str]) -> Manifest:
        """Upload a set {name: path of the file}, then its manifest, which is returned; remove what no manifest names.

        MirrorError or OSError where that fails; what was there before is then still whole.
        """
        before = self._read()
        if not self._is_expected(before, run, (epoch, step)):
            raise MirrorError("another run has replaced or removed %s there meanwhile" % MANIFEST)
        known = {entry["sha256"]: entry for entry in (before or {}).get("files", {}).values()}
        entries = {}
        for name, path in files.items():
            digest = self._digest(path)
            if digest not in known:
                object_name = "%s.%s" % (name, digest[:16])
                self._act(functools.partial(_put, path), object_name)
                known[digest] = {"object": object_name, "bytes": os.path.getsize(path), "sha256": digest}
            entries[name] = known[digest]
        made = {"format": FORMAT, "run": run, "writer": self.writer, "epoch": epoch, "step": step, "files": entries}
        made["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(MANIFEST, made)
        self.seen = made
        try:
            self._remove_unnamed(_objects(made) | _objects(before or {}))
        except (OSError, MirrorError) as error:
            logging.getLogger().warning("%s: old files are not removed: %s", self.name, one_line(reason(error)))
        return made

    def _is_expected(self, before: Manifest | None, run: str, place: tuple[int, int]) -> bool:
        """Return whether that manifest may be replaced: it is what was seen, or of an earlier process of this run.

        What a killed process has sent may arrive late.
        """
        if before is None or before["writer"] in (self.writer, (self.seen or {}).get("writer")):
            return before is not None or self.seen is None
        return before["run"] == run and (before["epoch"], before["step"]) <= place

    def restore(self, manifest: Manifest, folder: str) -> None:
        """Download the files that `manifest` names into `folder`, each whole or not at all."""
        for name in NAMES:
            entry = manifest["files"].get(name)
            if entry is not None:
                self._download(entry, os.path.join(folder, name))
        sync_folder(folder)

    def set_aside(self) -> str:
        """Give the manifest a name with the time, so that another run may begin here; return that name."""
        target = name_by_time(MANIFEST, is_taken=self._names().__contains__)
        self._write(target, self.seen)
        with contextlib.suppress(FileNotFoundError):  # of a try whose answer was lost
            self._act(lambda system, path: system.rm_file(path), MANIFEST)
        self.seen = None
        return target

    def _download(self, entry: Mapping[str, Any], path: str) -> None:
        with replacing(path) as temporary:
            try:
                self._act(lambda system, url: system.get_file(url, temporary), entry["object"])
            except OSError as error:
                if error.errno in remote.DISK_ERRORS:
                    raise MirrorError("%s cannot be written: %s" % (shown(path), reason(error))) from None
                raise
            with open(temporary, "rb") as file:
                is_whole = digest_of(file).hexdigest() == entry["sha256"]
            if not is_whole:
                text = "%s there is damaged: its contents are not those that %s names"
                raise MirrorError(text % (entry["object"], MANIFEST))
            sync_file(temporary)

    def _digest(self, path: str) -> str:
        """Return the file's SHA-256, which is computed once for a file with several names."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with open(path, "rb") as file:
                self._digests[key] = digest_of(file).hexdigest()
        return self._digests[key]

    def _read(self, name: str = MANIFEST) -> Manifest | None:
        """Return a manifest, None where there is none; MirrorError where it is damaged."""
        try:
            data = self._act(lambda system, path: system.cat_file(path), name)
        except FileNotFoundError:
            return None
        try:
            manifest = parse_json(data.decode("utf-8"))
            _check(manifest)
        except (ValueError, KeyError, TypeError, AttributeError):
            text = "%s there is not a manifest of this program, or of a newer version: name another folder"
            raise MirrorError(text % name) from None
        return manifest

    def _write(self, name: str, manifest: Manifest | None) -> None:
        data = (to_json(manifest, indent=2) + "\n").encode("utf-8")
        self._act(lambda system, path: system.pipe_file(path, data), name)

    def _remove_unnamed(self, kept: set[str]) -> None:
        names = self._names()
        for name in names:
            if _ASIDE.fullmatch(name) and name not in self._aside:
                self._aside[name] = _objects(self._read(name) or {})
        kept = kept.union(*self._aside.values())
        for name in names:
            if _OBJECT.fullmatch(name) and name not in kept:
                self._act(lambda system, path: system.rm_file(path), name)

    def _names(self) -> list[str]:
        return remote.list_folder(self.url, self.patience_s)[1]

    def _act(self, act: Callable[[Any, str], _Result], name: str) -> _Result:
        """Return act(file system, URL of `name`); it is tried again while the network is lost."""
        url = "%s/%s" % (self.url, name)
        return remote.persist(
            lambda: act(remote.filesystem(url), url), self.name, self.patience_s, before_retry=self._give_up_if_moot
        )

    def _give_up_if_moot(self) -> None:
        """Raise Superseded if a newer set waits.

        Only a lost network is a reason to: where uploads take longer than the time between checkpoints, each would be
        given up for the next, and none would end.
        """
        if self.is_moot():
            raise Superseded("a newer checkpoint is uploaded instead")


def _put(path: str, system: Any, url: str) -> None:
    system.put_file(path, url)


def _check(manifest: Any) -> None:
    """Raise ValueError, or what Python raises, for anything but a manifest."""
    files = manifest["files"]
    if manifest["format"] != FORMAT or not {"checkpoint.pth"} <= set(files) <= set(NAMES):
        raise ValueError
    if not all(isinstance(manifest[name], int) for name in ("epoch", "step")):
        raise ValueError
    if not all(isinstance(manifest[name], str) for name in ("run", "writer")):
        raise ValueError
    for entry in files.values():
        if not _OBJECT.fullmatch(entry["object"]) or not isinstance(entry["bytes"], int):
            raise ValueError
        if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
            raise ValueError


def _objects(manifest: Mapping[str, Any]) -> set[str]:
    return {entry["object"] for entry in manifest.get("files", {}).values()}


def is_file(path: str, entry: Mapping[str, Any]) -> bool:
    """Return whether the file at `path` is the one that a manifest's `entry` describes."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) != entry["bytes"]:
            return False
        with open(path, "rb") as file:
            return digest_of(file).hexdigest() == entry["sha256"]
    except OSError:
        return False
