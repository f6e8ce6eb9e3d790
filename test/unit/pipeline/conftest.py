"""Fixtures of the tests of pipeline/."""

import logging
import os

import pytest
from index_caches import settle, touch
from parquet_data import CLASSES, content, write_parquet

from pipeline import image_index, sources


@pytest.fixture
def heard(caplog):
    """Record warnings, whatever level an earlier test has left."""
    caplog.set_level(logging.WARNING)


@pytest.fixture
def hasty(monkeypatch):
    """Take what has been still for 10 ms to be still, so that the tests need not wait for 2 s."""
    monkeypatch.setattr(image_index, "RACY_NS", 10**7)


@pytest.fixture
def tree(tmp_path):
    """Two classes of some files, folders in folders among them, and a link to a folder elsewhere."""
    root = tmp_path / "data" / "train"
    for name in ("a/2.png", "a/10.JPEG", "a/notes.txt", "a/in/x.jpg", "a/in-2/x.jpg", "a/in/deep/y.webp", "b/1.png"):
        touch(root, name)
    touch(tmp_path / "elsewhere" / "z.png")
    os.symlink(str(tmp_path / "elsewhere"), str(root / "b" / "link"))
    settle()
    return str(root)


@pytest.fixture
def cache(tmp_path):
    """The folder of a cache, which is not there."""
    return str(tmp_path / "cache")


@pytest.fixture
def two_files(tmp_path):
    """The Source of two Parquet files of 57 rows, six row groups each."""
    for part in range(2):
        numbers = range(57 * part, 57 * (part + 1))
        path = tmp_path / ("train-%05d-of-00002.parquet" % part)
        write_parquet(path, [content(number) for number in numbers], [number % CLASSES for number in numbers])
    return sources.find(str(tmp_path), ["train"])["train"]
