"""Parquet files: found, listed, read by row groups."""

import os
import pickle
import sys

import numpy
import pytest
from command_lines import parse
from odd_pictures import encoded
from odd_pictures import pixels as noise
from parquet_data import listed, need_pyarrow, source_of, write_parquet

import datasets
from pipeline import index, listing, parquet_listing, sources
from pipeline.index_forms import open_index
from runtime.errors import UserError

need_pyarrow()


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


def test_the_index_survives_its_cache_until_a_file_changes(two_files, tmp_path, hasty):
    cache = str(tmp_path / "cache")
    for path in two_files.paths:
        os.utime(path, ns=(0, 10**18))
    images = listed(two_files)
    index.keep(images, cache)
    kept = index.find(two_files, None, cache, lambda: None)
    assert isinstance(kept, index.CachedBlock) and open_index(kept, two_files) == images
    os.utime(two_files.paths[1], ns=(0, 10**18 + 1))
    assert not isinstance(index.find(two_files, None, cache, lambda: None), index.CachedBlock)


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


def test_a_row_group_that_is_too_large_is_refused_with_the_remedy(two_files, monkeypatch):
    monkeypatch.setattr(parquet_listing, "_LARGEST_BLOCK", 100)
    with pytest.raises(UserError, match=r"the row group 1 has 0.0 GB of images, .* row_group_size=100"):
        listed(two_files)


def test_pyarrow_is_asked_for_where_it_is_missing_or_too_old(two_files, monkeypatch):
    from pyarrow import parquet

    class OldFile:
        def __init__(self, source, pre_buffer=True):
            self.source = source

    monkeypatch.setattr(parquet, "ParquetFile", OldFile)
    with pytest.raises(UserError, match="this pyarrow is too old .* pip install 'pyarrow>=15'"):
        listed(two_files)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        listed(two_files)


def test_list_source_takes_parquet(two_files):
    assert listing.list_source(two_files, None) == listed(two_files)
