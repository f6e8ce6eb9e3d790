"""Parquet files: found, listed, read by row groups; their order does not depend on workers, processes, or a stop."""

import collections
import os
import pickle
import shutil
import sys

import numpy
import pytest
import torch
from command_lines import parse
from odd_pictures import encoded
from odd_pictures import pixels as noise
from parquet_data import need_pyarrow, write_parquet

import datasets
from pipeline import index, listing, parquet_listing, sources
from pipeline.batches import Batches
from pipeline.block_sampler import BlockSampler, mixing_lines, samplers_of
from pipeline.image_index import same_images
from pipeline.index_forms import open_index
from pipeline.parquet_listing import list_parquet
from pipeline.samplers import EvalShard, PositionBatches, RASampler, ShardBatches
from runtime.device import Device
from runtime.errors import UserError

need_pyarrow()
CLASSES = 4


def content(number):
    return b"image %d" % number


def source_of(*paths, part="train"):
    return sources.Source("parquet", part, str(paths[0]), tuple(str(path) for path in paths))


@pytest.fixture
def narrow(monkeypatch):
    """Let a window have few row groups, of which `made` has 12, of 10 rows and of 7 at the end of a file."""
    monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", 700)


@pytest.fixture
def made(tmp_path):
    """Two files of 57 rows, six row groups each."""
    for part in range(2):
        numbers = range(57 * part, 57 * (part + 1))
        path = tmp_path / ("train-%05d-of-00002.parquet" % part)
        write_parquet(path, [content(number) for number in numbers], [number % CLASSES for number in numbers])
    return sources.find(str(tmp_path), ["train"])["train"]


def listed(source, classes=None):
    return list_parquet(source, classes)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler.indices().tolist()


def test_files_are_found_in_the_folder_and_below_data(tmp_path):
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/validation-0.parquet"]
    for name in (*names, "data/test-0.parquet", "trainer.parquet"):
        write_parquet(tmp_path / name, [b"a"], [0])
    found = sources.find(str(tmp_path), ["train", "val"])
    assert found["train"].paths == tuple(str(tmp_path / name) for name in names[:2])
    assert found["val"].paths == (str(tmp_path / names[2]),) and found["val"].form == "parquet"
    assert found["train"].text().startswith("2 Parquet files ") and found["val"].text().startswith("Parquet file ")
    pattern = sources.read_source("train", str(tmp_path / "data" / "train-*.parquet"))
    assert (pattern.form, pattern.paths) == ("parquet", found["train"].paths)
    assert sources.read_source("val", str(tmp_path / names[2])).form == "parquet"


def test_a_missing_file_and_a_second_form_are_errors(tmp_path):
    path = write_parquet(tmp_path / "train-00000-of-00002.parquet", [b"a"], [0])
    with pytest.raises(UserError, match="train-00001-of-00002.parquet is missing"):
        sources.find(str(tmp_path), ["train"])
    os.rename(path, str(tmp_path / "train.parquet"))
    (tmp_path / "train.csv").write_text("path,label\na,0\n")
    with pytest.raises(UserError, match=r"twice, as list .*train.csv and as Parquet file .*train.parquet: name one"):
        sources.find(str(tmp_path), ["train"])


@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_reading_returns_the_bytes_that_were_written(tmp_path, is_struct, compression):
    contents = [os.urandom(1000 + number) for number in range(25)]
    path = write_parquet(
        tmp_path / "train.parquet", contents, list(range(25)), 10, is_struct=is_struct, compression=compression
    )
    images = listed(source_of(path))
    reader = pickle.loads(pickle.dumps(images.reader()))
    assert [(reader.open(key).read(), target) for key, target in images] == list(zip(contents, range(25)))
    assert reader.decoded == 3 and images.name_of(13) == path + ":row 13"


def test_the_index_survives_its_cache_until_a_file_changes(made, tmp_path, hasty):
    cache = str(tmp_path / "cache")
    for path in made.paths:
        os.utime(path, ns=(0, 10**18))
    images = listed(made)
    index.keep(images, cache)
    kept = index.find(made, None, cache, lambda: None)
    assert isinstance(kept, index.CachedBlock) and open_index(kept, made) == images
    os.utime(made.paths[1], ns=(0, 10**18 + 1))
    assert not isinstance(index.find(made, None, cache, lambda: None), index.CachedBlock)


def test_labels_are_named_by_the_schema_by_text_or_by_known_classes(tmp_path):
    def classes_and_targets(labels, known=None, **more):
        path = write_parquet(tmp_path / "train.parquet", [b"a"] * len(labels), labels, 2, **more)
        images = listed(source_of(path), known)
        return images.classes, images.targets.tolist()

    import pyarrow

    assert classes_and_targets([2, 0, 2], names=["cat", "1", "0"]) == (["cat", "1", "0"], [2, 0, 2])
    assert classes_and_targets([1, 0, 0], ["x", "dog", "cat"], names=["cat", "dog"]) == (["x", "dog", "cat"], [1, 2, 2])
    assert classes_and_targets(["dog", "cat", "dog"]) == (["cat", "dog"], [1, 0, 1])
    assert classes_and_targets(pyarrow.array(["dog", "cat", "dog"]).dictionary_encode()) == (["cat", "dog"], [1, 0, 1])
    assert classes_and_targets([1, 0, 2]) == (["0", "1", "2"], [1, 0, 2])
    assert classes_and_targets([1, 0], ["a", "b", "c"]) == (["a", "b", "c"], [1, 0])
    (tmp_path / "classes.txt").write_text("b\na\n")
    assert classes_and_targets([1, 0]) == (["b", "a"], [1, 0])


@pytest.mark.parametrize(
    "columns, text",
    [
        ({"img": [b"a"], "label": [0]}, "has the columns img, label, and needs one named image and one named label"),
        ({"image": ["a"], "label": [0]}, "the column image is of type string"),
        ({"image": [b"a"], "label": [0.5]}, "the column label is of type double"),
        ({"image": [b"a", b"b"], "label": [0, None]}, r"train.parquet:row 1 has no label"),
        ({"image": [b"a", b"b"], "label": [0, -1]}, r"train.parquet:row 1: label -1 is no class number"),
    ],
)
def test_other_columns_and_labels_are_named(tmp_path, columns, text):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match=text) as caught:
        listed(source_of(tmp_path / "train.parquet"))
    assert "\n" not in str(caught.value)


def test_files_of_different_data_sets_do_not_mix(tmp_path):
    first = write_parquet(tmp_path / "a.parquet", [b"a"], [0], names=["x", "y"])
    for number, more in enumerate(({"names": ["y", "x"]}, {"names": ["x", "y"], "is_struct": False})):
        other = write_parquet(tmp_path / ("%d.parquet" % number), [b"a"], [1], **more)
        with pytest.raises(UserError, match=r"a.parquet and .*\d.parquet (name their classes|have columns)"):
            listed(source_of(first, other))
    texts = write_parquet(tmp_path / "texts.parquet", [b"a"], ["x"])
    plain = write_parquet(tmp_path / "plain.parquet", [b"a"], [0])
    with pytest.raises(UserError, match="of different types"):
        listed(source_of(plain, texts))


def test_damage_is_one_line(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [os.urandom(500) for _ in range(30)], list(range(30)))
    whole = (tmp_path / "train.parquet").read_bytes()
    generator = numpy.random.RandomState(0)
    damaged = [b"", whole[:4], whole[:-1], whole[: len(whole) // 2], b"PAR1" + b"\xff" * 40 + b"PAR1"]
    for _ in range(150):
        changed = bytearray(whole)
        for place in generator.randint(len(whole) - 1500, len(whole), 3):  # the footer, for the most part
            changed[place] = generator.randint(256)
        damaged.append(bytes(changed))
    errors = 0
    for bad in damaged:
        (tmp_path / "train.parquet").write_bytes(bad)
        try:
            images = listed(source_of(path))
        except UserError as error:
            assert str(error).startswith(path) and "\n" not in str(error)
            errors += 1
            continue
        dataset = datasets.image_folder(images, parse("--input-size=32"), False, images.reader())
        assert all(dataset[number].bad_files for number in range(len(images)))  # which are no images anyway
    assert errors > 20


def test_a_damaged_row_group_is_named_row_by_row_and_decoded_once(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [b"a" * 5000] * 20, [0] * 20, compression="zstd")
    images = listed(source_of(path))
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "train.parquet").write_bytes(bytes(content))
    os.utime(path, ns=(0, images.header["files"][0][1]))
    dataset = datasets.image_folder(images, parse("--input-size=32"), False, images.reader())
    for row in range(10):
        assert dataset[row].bad_files[0].startswith("%s:row %d (its row group is damaged: " % (path, row))
    assert dataset.reader.decoded == 1
    assert dataset.reader.open((1, 0)).read() == b"a" * 5000


def test_rows_without_bytes_and_changed_files_are_unreadable_images(tmp_path):
    picture = encoded(noise(40, 36, 0), "PNG")
    path = write_parquet(tmp_path / "train.parquet", [picture, None, picture], [0, 0, 0], 2)
    images = listed(source_of(path))
    options = parse("--input-size=32")
    dataset = datasets.image_folder(images, options, False, images.reader())
    assert dataset[0].pixels is not None
    assert dataset[1].bad_files == [path + ":row 1 (its column image has no bytes)"]
    write_parquet(tmp_path / "train.parquet", [picture] * 4, [0] * 4, 2)
    changed = "%s:row 2 (the file has changed since it was listed)" % path
    assert datasets.image_folder(images, options, False, images.reader())[2].bad_files == [changed]
    os.remove(path)
    assert "No such file" in datasets.image_folder(images, options, False, images.reader())[2].bad_files[0]


def test_a_row_group_that_is_too_large_is_refused_with_the_remedy(made, monkeypatch):
    monkeypatch.setattr(parquet_listing, "_LARGEST_BLOCK", 100)
    with pytest.raises(UserError, match=r"the row group 1 has 0.0 GB of images, .* row_group_size=100"):
        listed(made)


def test_pyarrow_is_asked_for_where_it_is_missing_or_too_old(made, monkeypatch):
    from pyarrow import parquet

    class OldFile:
        def __init__(self, source, pre_buffer=True):
            self.source = source

    monkeypatch.setattr(parquet, "ParquetFile", OldFile)
    with pytest.raises(UserError, match="this pyarrow is too old .* pip install 'pyarrow>=15'"):
        listed(made)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        listed(made)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 13])
def test_an_epoch_has_every_image_once_and_the_ranks_share_none(made, narrow, ranks):
    images = listed(made)
    assert images.has_windows and len(images.starts) == 13
    for epoch in range(3):
        orders = [epoch_of(BlockSampler(images, ranks, rank, 3, repeats=1), epoch) for rank in range(ranks)]
        plain = [epoch_of(RASampler(images, ranks, rank, seed=3, repeats=1), epoch) for rank in range(ranks)]
        assert [len(order) for order in orders] == [len(order) for order in plain]
        counts = collections.Counter(number for order in orders for number in order)
        assert set(counts) == set(range(114)) and sum(counts.values()) - 114 < ranks  # those that make ranks equal


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_repeated_augmentation_repeats_images_on_a_rank(made, narrow, ranks):
    images = listed(made)
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


def test_seeds_epochs_and_ranks_have_orders_of_their_own(made, narrow):
    images = listed(made)
    orders = [epoch_of(BlockSampler(images, 1, 0, seed, 1), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    again = BlockSampler(images, 1, 0, 1, 1)
    for first, count in ((0, 7), (30, 1), (5, 60), (110, 9), (114, 3)):
        assert again.indices(first, count).tolist() == orders[2][first : first + count]
    assert epoch_of(again, 0) == orders[2] and epoch_of(again.for_rank(0), 1) == orders[3]


def test_a_rank_sees_each_row_group_in_one_window(made, narrow):
    images = listed(made)
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


def test_a_few_row_groups_are_shuffled_as_a_whole(made):
    images = listed(made)
    dataset = datasets.image_folder(images, parse("--input-size=32"), True, images.reader())
    (sampler,) = samplers_of(dataset, 1, [0], 0, 1)
    assert not images.has_windows and type(sampler) is RASampler and dataset.reader.keep >= 12


def test_row_groups_and_windows_belong_to_the_identity(made, tmp_path, monkeypatch):
    def fingerprint(window_bytes, source=made):
        monkeypatch.setattr(parquet_listing, "WINDOW_BYTES", window_bytes)
        return listed(source).fingerprint

    whole, narrow, narrower = fingerprint(10**6), fingerprint(700), fingerprint(300)
    assert not same_images(whole, narrow) and not same_images(narrow, narrower) and narrow == fingerprint(700)
    assert same_images([*whole[:2], "folder", 1], whole) and not same_images([*whole[:2], "folder", 1], narrow)
    moved = [shutil.copyfile(path, str(tmp_path / "moved" / os.path.basename(path))) for path in _made(tmp_path, made)]
    assert fingerprint(700, source_of(*moved)) == narrow


def _made(tmp_path, source):
    (tmp_path / "moved").mkdir()
    return source.paths


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


def test_list_source_takes_parquet(made):
    assert listing.list_source(made, None) == listed(made)
