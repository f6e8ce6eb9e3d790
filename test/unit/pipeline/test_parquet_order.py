"""The order of the rows of Parquet files: by windows of row groups, whatever the workers, processes, or a stop."""

import collections
import os
import shutil

import numpy
import pytest
import torch
from command_lines import parse
from odd_pictures import encoded
from odd_pictures import pixels as noise
from parquet_data import CLASSES, content, listed, need_pyarrow, source_of, write_parquet

import datasets
from pipeline import parquet_listing
from pipeline.batches import Batches
from pipeline.block_sampler import BlockSampler, mixing_lines, samplers_of
from pipeline.image_index import same_images
from pipeline.samplers import EvalShard, PositionBatches, RASampler, ShardBatches
from runtime.device import Device

need_pyarrow()


@pytest.fixture
def narrow(monkeypatch):
    """Let a window have few row groups, of which `two_files` have 12, of 10 rows and of 7 at the end of a file."""
    monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", 700)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler.indices().tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 13])
def test_an_epoch_has_every_image_once_and_the_ranks_share_none(two_files, narrow, ranks):
    images = listed(two_files)
    assert images.has_windows and len(images.starts) == 13
    for epoch in range(3):
        orders = [epoch_of(BlockSampler(images, ranks, rank, 3, repeats=1), epoch) for rank in range(ranks)]
        plain = [epoch_of(RASampler(images, ranks, rank, seed=3, repeats=1), epoch) for rank in range(ranks)]
        assert [len(order) for order in orders] == [len(order) for order in plain]
        counts = collections.Counter(number for order in orders for number in order)
        assert set(counts) == set(range(114)) and sum(counts.values()) - 114 < ranks  # those that make ranks equal


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_repeated_augmentation_repeats_images_on_a_rank(two_files, narrow, ranks):
    images = listed(two_files)
    for epoch in range(3):
        samplers = [BlockSampler(images, ranks, rank, 3, repeats=3) for rank in range(ranks)]
        assert len(samplers[0]) == len(RASampler(images, ranks, 0, repeats=3)) == 114 // ranks
        orders = [epoch_of(sampler, epoch) for sampler in samplers]
        for order in orders:
            assert len(order) == len(samplers[0])
            assert all(order[place] == order[place // 3 * 3] for place in range(len(order)))
            assert len(set(order)) == -(-len(order) // 3)
        assert len(set().union(*map(set, orders))) == sum(len(set(order)) for order in orders)
    seen = {number for epoch in range(40) for number in epoch_of(samplers[0], epoch)}
    assert len(seen) > 100  # no rank is left with the same part of the images


def test_seeds_epochs_and_ranks_have_orders_of_their_own(two_files, narrow):
    images = listed(two_files)
    orders = [epoch_of(BlockSampler(images, 1, 0, seed, 1), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    again = BlockSampler(images, 1, 0, 1, 1)
    for first, count in ((0, 7), (30, 1), (5, 60), (110, 9), (114, 3)):
        assert again.indices(first, count).tolist() == orders[2][first : first + count]
    assert epoch_of(again, 0) == orders[2] and epoch_of(again.for_rank(0), 1) == orders[3]


def test_a_rank_sees_each_row_group_in_one_window(two_files, narrow):
    images = listed(two_files)
    for rank in range(2):
        sampler = BlockSampler(images, 2, rank, 0, 1)
        windows = [sampler.images_of(number) for number in range(len(sampler.plan().bounds) - 1)]
        blocks = [set(numpy.searchsorted(images.starts, window, "right").tolist()) for window in windows]
        assert all(len(window) <= images.window for window in blocks) and len(windows) > 1
        assert sum(map(len, blocks)) == len(set().union(*blocks))
        bounds = numpy.cumsum([0, *map(len, windows)])
        parts = numpy.split(sampler.indices(), bounds[1:-1])
        assert all(sorted(part) == sorted(window) for part, window in zip(parts, windows))
        assert any((part != window).any() for part, window in zip(parts, windows))


def test_a_few_row_groups_are_shuffled_as_a_whole(two_files):
    images = listed(two_files)
    dataset = datasets.image_folder(images, parse("--input-size=32"), True, images.reader())
    (sampler,) = samplers_of(dataset, 1, [0], 0, 1)
    assert not images.has_windows and type(sampler) is RASampler and dataset.reader.keep >= 12


def test_row_groups_and_windows_belong_to_the_identity(two_files, tmp_path, monkeypatch):
    def fingerprint(window_bytes, source=two_files):
        monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", window_bytes)
        return listed(source).fingerprint

    whole, narrow, narrower = fingerprint(10**6), fingerprint(700), fingerprint(300)
    assert not same_images(whole, narrow) and not same_images(narrow, narrower) and narrow == fingerprint(700)
    assert same_images([*whole[:2], "folder", 1], whole) and not same_images([*whole[:2], "folder", 1], narrow)
    (tmp_path / "moved").mkdir()
    moved = [shutil.copyfile(path, str(tmp_path / "moved" / os.path.basename(path))) for path in two_files.paths]
    assert fingerprint(700, source_of(*moved)) == narrow


def pictures(tmp_path, count=40):
    contents = [encoded(noise(40, 36, number), "PNG") for number in range(count)]
    return source_of(write_parquet(tmp_path / "train.parquet", contents, [n % CLASSES for n in range(count)], 4))


def batches_of(images, workers, first=0, ranks=(0, 1)):
    dataset = datasets.image_folder(images, parse("--input-size=32"), True, images.reader())
    order = PositionBatches(samplers_of(dataset, 2, ranks, 0, 1), 3)
    made = Batches(dataset, order, Device("cpu"), workers=workers, parts=len(ranks))
    found = [(pixels.clone(), targets.clone()) for pixels, targets in made.epoch(1, first)]
    made.end()
    return found, dataset.reader


def test_workers_and_a_stop_at_any_step_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", 40000)
    images = listed(pictures(tmp_path))
    assert 1 < images.window < 5 and images.has_windows
    whole, _ = batches_of(images, 0)
    assert len(whole) == 12
    for workers, first in [(2, 0), *((0, step) for step in range(6)), (1, 4)]:
        tail, _ = batches_of(images, workers, first)
        assert len(tail) == len(whole) - 2 * first
        for mine, other in zip(tail, whole[2 * first :]):
            assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1])


def test_one_process_decodes_each_row_group_once_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", 40000)
    images = listed(pictures(tmp_path, 48))
    _, reader = batches_of(images, 0, ranks=(0,))
    assert reader.decoded == 6 and reader.keep == images.window == 2  # its half of 12 blocks
    _, reader = batches_of(images, 0)
    assert 12 <= reader.decoded <= 24 and reader.keep == 4  # a rank may put out the blocks of another between windows


def test_a_reader_that_was_used_before_a_fork_reads_on_in_the_loader_processes(tmp_path):
    images = listed(pictures(tmp_path))
    dataset = datasets.image_folder(images, parse("--input-size=32"), False, images.reader())
    expected = [dataset[number].pixels for number in range(len(images))]
    batches = Batches(dataset, ShardBatches(EvalShard(len(images)), 5), Device("cpu"), workers=2)
    count = sum(len(targets) for _, targets in batches)
    batches.end()
    assert count == len(expected) == 40 and dataset[7].bad_files == []


def test_evaluation_gives_each_rank_images_in_a_row():
    parts = [list(EvalShard(11, 3, rank, in_a_row=True)) for rank in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]
    assert sorted(map(len, parts)) == sorted(len(EvalShard(11, 3, rank)) for rank in range(3))


def test_rows_that_are_sorted_by_class_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", 700)
    contents = [content(number) for number in range(400)]
    mixed = write_parquet(tmp_path / "mixed.parquet", contents, [number % 40 for number in range(400)])
    in_order = write_parquet(tmp_path / "sorted.parquet", contents, [number // 10 for number in range(400)])
    assert mixing_lines(listed(source_of(mixed))) == []
    (line,) = mixing_lines(listed(source_of(in_order)))
    assert "sorted.parquet: its rows are sorted by class: a window of the shuffle" in line
