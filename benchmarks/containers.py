"""Images of a data set as class folders, a tar, shards, a zip and Parquet, to compare how fast they are read."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import zipfile

from benchmarks import parquet_copies
from pipeline import sources
from pipeline.image_index import ImageIndex
from pipeline.listing import list_source

SHARDS = 4


def pack(images: ImageIndex, most: int, folder: str) -> dict[str, ImageIndex]:
    """Write at most `most` of the images in each form into `folder`, and return {form: the index of them}.

    Parquet is among them where pyarrow is installed.
    """
    reader = images.reader()
    places = {"folder": "folder", "tar": "tar.tar", "shards": "shards-*.tar", "zip": "zip.zip"}
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(zipfile.ZipFile(os.path.join(folder, places["zip"]), "w"))
        names = [places["tar"], *("shards-%d.tar" % number for number in range(SHARDS))]
        tar, *shards = [stack.enter_context(tarfile.open(os.path.join(folder, name), "w")) for name in names]
        for number in range(0, len(images), -(-len(images) // most)):
            key, target = images[number]
            with reader.open(key) as file:
                content = file.read()
            name = "%s/%d%s" % (images.classes[target], number, os.path.splitext(images.name_of(number))[1])
            path = os.path.join(folder, places["folder"], name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as copy:
                copy.write(content)
            add_member(tar, name, content)
            add_member(shards[number % SHARDS], name, content)
            stored.writestr(name, content)
    packed = {
        form: list_source(sources.read_source("val", os.path.join(folder, place)), None)
        for form, place in places.items()
    }
    if not parquet_copies.missing():
        packed["parquet"] = _write_parquet(packed["folder"], os.path.join(folder, "parquet"))
    return packed


def _write_parquet(images: ImageIndex, folder: str) -> ImageIndex:
    os.mkdir(folder)
    path = os.path.join(folder, "images.parquet")
    parquet_copies.write(images, path, range(len(images)))
    with parquet_copies.windows(folder):
        return list_source(sources.read_source("val", path), images.classes)


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an open tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
