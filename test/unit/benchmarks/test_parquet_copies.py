"""Parquet in the benchmarks: real windows over few images, and left out with the reason without pyarrow."""

import os
import sys
import types

import pytest
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

from image_folders import write_images
from parquet_data import need_pyarrow

import benchmark
import datasets
from benchmarks import containers, data, parquet_copies
from options import parsing
from pipeline import parquet_listing
from pipeline.batches import collate
from pipeline.listing import list_images

need_pyarrow()


@pytest.fixture
def images(tmp_path):
    """100 images in the folders of two classes."""
    folder = write_images(str(tmp_path / "data"), train=50)
    names = sorted(os.listdir(os.path.join(folder, "train")))
    return list_images(os.path.join(folder, "train"), names)


@pytest.fixture
def without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)


def test_the_parquet_copy_is_read_by_windows_and_each_row_group_once_an_epoch(images, tmp_path):
    usual = parquet_listing.WINDOW_BYTES
    copy = containers.pack(images, len(images), str(tmp_path))["parquet"]
    blocks = -(-len(images) // parquet_copies.ROWS)
    assert copy.has_windows and len(copy.starts) - 1 == blocks > copy.window == parquet_copies.BLOCKS
    assert len(copy) == len(images) and copy.targets.tolist() == images.targets.tolist()
    assert usual == parquet_listing.WINDOW_BYTES
    options = parsing.parse(["--data-path=unused", "--input-size=32"])
    dataset = datasets.image_folder(copy, options, False, copy.reader())
    order = iter(data.EndlessBatches(data.Pipeline(dataset, collate), 10))
    for _ in range(len(images) // 10):
        assert all(dataset[position].pixels is not None for position in next(order))
    assert dataset.reader.decoded == blocks


def test_the_way_of_parity_has_windows_and_the_rows_of_the_folder(tmp_path, monkeypatch):
    for package in ("scipy", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    from benchmarks import parity
    from tools.make_digits import write_digits

    write_digits(str(tmp_path), val_every=2)
    parity.write_parquet_digits(str(tmp_path))
    monkeypatch.setattr(parity.logging, "disable", lambda level: None)  # for all tests that follow in this process
    found, make = [], datasets.build_loaders
    monkeypatch.setattr(datasets, "build_loaders", lambda *words: found.append(make(*words)) or found[-1])
    curves = {way: parity.learn(way, 0, 1, str(tmp_path)) for way in ("ours", "parquet")}
    ours, parquet = (loaders.train.dataset.images for loaders in found)
    assert len(parquet) == len(ours) == 901 and len(found[1].val.dataset.images) == len(found[0].val.dataset.images)
    assert parquet.has_windows and parquet.window == parquet_copies.BLOCKS and len(parquet.starts) == 92
    assert (parquet.targets[:-1] > parquet.targets[1:]).sum() > 300  # rows in no order
    assert sorted(parquet.targets.tolist()) == sorted(ours.targets.tolist())
    assert curves["parquet"]["loss"] != curves["ours"]["loss"]


def test_parity_leaves_parquet_out_without_pyarrow(tmp_path, capsys, without_pyarrow):
    for package in ("scipy", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    from benchmarks import parity

    assert parity.available(["ours", "parquet"]) == ["ours"]
    assert capsys.readouterr().out.startswith("parquet is left out: Parquet files are read by pyarrow (")
    words = ["parity", "--output=%s" % tmp_path, "--ways", "parquet"]
    assert benchmark.main(words) == 2
    error = capsys.readouterr().err
    assert "pip install pyarrow" in error and error.count("\n") == 1 and os.listdir(str(tmp_path)) == []


def test_the_containers_leave_parquet_out_without_pyarrow(images, tmp_path, capsys, without_pyarrow):
    root = os.path.dirname(images.place)
    options = types.SimpleNamespace(input_size=32, batch_size=4, rounds=1, seconds=0)
    rows = data._by_container(options, root)
    assert [row.setting.split(": ")[1] for row in rows] == ["folder", "tar", "shards", "zip"]
    assert "by container: parquet is left out: " in capsys.readouterr().out
