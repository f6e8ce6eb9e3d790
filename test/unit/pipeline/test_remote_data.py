"""Data sets on an S3 server give the same index and bytes as on this machine; --data-cache, --data-cache-gb."""

import os

import pytest
from containers import CONTAINERS
from image_folders import write_images
from index_caches import is_hit
from parquet_data import need_pyarrow, write_parquet_folder

import datasets
from options import parsing
from pipeline import index, listing, sources
from pipeline.image_index import same_images
from pipeline.index_forms import open_index
from pipeline.samplers import Position
from runtime.errors import UserError
from storage import remote
from storage.files import Storage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(str(tmp_path_factory.mktemp("remote") / "folder"), train=4, val=3)


@pytest.fixture
def shards(data, tmp_path, object_store):
    """The URL of shards of the data set."""
    CONTAINERS["shards"](data, str(tmp_path / "shards"))
    return object_store.put_folder(str(tmp_path / "shards"), "shards")


def listed(root):
    found = sources.find(root, ("train", "val"))
    train = listing.list_source(found["train"], None)
    return train, listing.list_source(found["val"], train.classes)


def contents(images):
    reader, found = images.reader(), []
    for key, target in images:
        with reader.open(key) as file:
            found.append((file.read(), images.classes[target]))
    return found


def check_equal(root, url):
    for local, far in zip(listed(root), listed(url)):
        assert far.source.form == local.source.form and same_images(local.fingerprint, far.fingerprint)
        assert contents(far) == contents(local)
        name = far.reader().name(far[0][0])
        assert name.startswith("s3://some-bucket/") and ".." not in name


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_each_form_is_found_listed_and_read(data, tmp_path, object_store, name):
    CONTAINERS[name](data, str(tmp_path / "made"))
    object_store.put_folder(data, "some/folder")
    os.symlink(data, str(tmp_path / "folder"))
    for path in (tmp_path / "made").glob("*.*"):
        if path.suffix in (".csv", ".tsv", ".jsonl", ".txt") and "classes" not in path.name:
            path.write_text(path.read_text().replace(os.path.relpath(data, str(tmp_path / "made")), "../folder"))
    check_equal(str(tmp_path / "made"), object_store.put_folder(str(tmp_path / "made"), "some/made"))


def test_class_folders(data, object_store):
    object_store.put("folder/train/.thumbnails/a.png", b"hidden")
    object_store.put("folder/train/dog/.b/a.png", b"hidden too")
    object_store.put("folder/train/", b"")  # as some programs mark a folder
    check_equal(data, object_store.put_folder(data, "folder"))


def test_parquet(data, tmp_path, object_store):
    need_pyarrow()
    made = write_parquet_folder(data, str(tmp_path / "made"), group=2)
    check_equal(made, object_store.put_folder(made, "made"))


def find(url, part="train"):
    return sources.find("", (part,), {part: url})[part]


def test_patterns_name_shards(shards):
    assert find(shards + "/train-{000..002}.tar").paths == find(shards + "/train-*.tar").paths
    with pytest.raises(UserError, match=r"train-003.tar does not exist \(like 1 more\)"):
        find(shards + "/train-{000..004}.tar")
    with pytest.raises(UserError, match="--train-data .*none.tar: no such file or folder"):
        find(shards + "/none.tar")
    with pytest.raises(UserError, match="no such folder"):
        sources.find(shards + "-none", ("train",))


def found(source, cache):
    return open_index(index.find(source, None, str(cache), lambda: None), source)


def test_an_index_is_kept_until_a_shard_changes(shards, tmp_path, object_store):
    source = find(shards + "/train-*.tar")
    index.keep(found(source, tmp_path), str(tmp_path))
    again = found(source, tmp_path)
    assert is_hit(again) and len(contents(again)) == 8
    object_store.put("shards/train-001.tar", object_store.files()["shards/train-001.tar"] + bytes(512))
    assert not is_hit(found(source, tmp_path))
    with pytest.raises(OSError, match="train-001.tar: the archive has changed since it was listed"):
        contents(again)


def test_a_batch_is_fetched_at_once(shards, tmp_path, monkeypatch):
    images = listed(shards)[0]
    options = parsing.parse(["--data-path=" + shards, "--input-size=32"])
    dataset = datasets.image_folder(images, options, True, images.reader())
    calls = []
    fetch = remote._fetch
    monkeypatch.setattr(remote, "_fetch", lambda *args: calls.append(len(args[1])) or fetch(*args))
    positions = [Position(number, (0, 0, number)) for number in (0, 0, 3, 5, 6)]
    batch = dataset.__getitems__(positions)
    assert calls == [4]
    assert [sample.target for sample in batch] == [images[number][1] for number in (0, 0, 3, 5, 6)]
    alone = datasets.image_folder(images, options, True, images.reader())
    assert all((alone[at].pixels.bytes == sample.pixels.bytes).all() for at, sample in zip(positions, batch))


def test_the_options_of_the_cache_reach_the_reader(shards, tmp_path):
    words = ["--data-path=" + shards, "--data-cache=" + str(tmp_path), "--data-cache-gb=0.5", "--dist-timeout=7"]
    found = sources.find_for(parsing.parse(words))
    assert {source.storage for source in found.values()} == {Storage(str(tmp_path), 5 * 10**8, 7)}
    reader = listing.list_source(found["train"], None).reader()
    assert reader.storage == found["train"].storage


def test_a_cache_that_cannot_be_used_is_named_at_once(shards, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--data-cache .*file cannot be written to"):
        sources.find_for(parsing.parse(["--data-path=" + shards, "--data-cache=%s/file" % tmp_path]))


def test_listing_fills_the_cache_and_reading_needs_no_more(shards, tmp_path, monkeypatch):
    words = ["--data-path=" + shards, "--data-cache=" + str(tmp_path)]
    images = listing.list_source(sources.find_for(parsing.parse(words))["train"], None)
    expected = contents(listed(shards)[0])
    monkeypatch.setattr(remote, "_fetch", None)
    assert contents(images) == expected
