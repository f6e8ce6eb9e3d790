"""The index of the images: ImageFolder's order, and a cache that is used only while it is right."""

import errno
import json
import logging
import os
import pickle
import shutil
import tempfile
import time
import types

import numpy
import pytest
import torch
from folders import names_below
from image_folders import make_folder
from index_caches import cached, found, is_hit, listed, path_of, settle, touch
from loaders import load
from odd_pictures import odd_names
from permissions import nobody
from torchvision.datasets import ImageFolder

import datasets
import main
from options import parsing
from pipeline import image_index, index
from pipeline.decoding import Decoding
from pipeline.listing import list_images
from pipeline.passed_over import PassedOver

pytestmark = pytest.mark.usefixtures("heard", "hasty")


def test_order_is_image_folder_s(tree):
    images = listed(tree)
    assert images == ImageFolder(tree).samples and len(images) == 7
    assert [target for _, target in images] == images.targets.tolist()


def test_odd_names_keep_their_order(tmp_path):
    for number, name in enumerate(odd_names()):
        touch(tmp_path, name, "x.png")
        touch(tmp_path, "one", name + ".png")
        touch(tmp_path, "two", name, "%d.JPG" % number)
    assert listed(str(tmp_path)) == ImageFolder(str(tmp_path)).samples


def test_it_is_a_sequence_that_cannot_be_changed(tree):
    images, paths = listed(tree), ImageFolder(tree).samples
    assert images[-1] == paths[-1] and images[-len(paths)] == paths[0] and paths[3] in images
    for number in (len(paths), -len(paths) - 1):
        with pytest.raises(IndexError):
            images[number]
    assert images != paths[:-1] and images != paths[1:] + paths[:1]
    for array in (images.block, images.targets, *images._arrays.values()):
        assert not array.flags.writeable


def test_a_loader_process_that_is_not_forked_gets_it_too(tree, cache):
    cached(tree, cache)
    images = found(tree, cache)
    sent = pickle.loads(pickle.dumps(images))
    assert sent == images and numpy.shares_memory(sent.block, sent._arrays["names"])  # the names are not sent twice


def test_classes_without_images(tmp_path):
    touch(tmp_path, "b", "x.png")
    os.makedirs(str(tmp_path / "a"))
    assert list_images(str(tmp_path), ["a", "b", "c"]).empty_classes() == [0, 2]
    assert list_images(str(tmp_path), ["a"]).empty_classes() == [0]


def test_the_cache_is_used(tree, cache, monkeypatch):
    before = ImageFolder(tree).samples
    index.keep(listed(tree), cache)
    monkeypatch.setattr(index, "list_source", None)
    images = found(tree, cache)
    assert is_hit(images) and images == before
    assert os.listdir(cache) == [os.path.basename(path_of(tree, cache))]


def test_the_folder_may_be_named_otherwise(tree, cache, monkeypatch):
    cached(tree, cache)
    monkeypatch.chdir(os.path.dirname(tree))
    images = found("train", cache)
    assert is_hit(images) and images == ImageFolder("train").samples


def test_each_folder_has_a_file_of_its_own(tree, cache):
    other = shutil.copytree(os.path.dirname(tree), os.path.dirname(tree) + "2")
    settle()
    assert len({cached(tree, cache), cached(os.path.join(other, "train"), cache)}) == 2


def rename_a_file(tree):
    os.rename(os.path.join(tree, "a", "2.png"), os.path.join(tree, "a", "3.png"))


def link_elsewhere(tree):
    os.unlink(os.path.join(tree, "b", "link"))
    touch(os.path.dirname(tree), "third", "q.png")
    os.symlink(os.path.join(os.path.dirname(tree), "third"), os.path.join(tree, "b", "link"))


def set_the_time_back(tree):
    """As tar does when it unpacks a second part of the same folder."""
    status = os.stat(os.path.join(tree, "a"))
    touch(tree, "a", "new.png")
    os.utime(os.path.join(tree, "a"), ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "added": lambda tree: touch(tree, "a", "new.png"),
    "removed": lambda tree: os.unlink(os.path.join(tree, "a", "2.png")),
    "renamed": rename_a_file,
    "added below": lambda tree: touch(tree, "a", "in", "deep", "new.png"),
    "added behind a link": lambda tree: touch(tree, "b", "link", "new.png"),
    "folder added": lambda tree: touch(tree, "b", "more", "new.png"),
    "folder removed": lambda tree: shutil.rmtree(os.path.join(tree, "a", "in", "deep")),
    "class added": lambda tree: touch(tree, "c", "new.png"),
    "class renamed": lambda tree: os.rename(os.path.join(tree, "b"), os.path.join(tree, "c")),
    "link changed": link_elsewhere,
    "time set back": set_the_time_back,
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_folder_that_has_changed_is_listed_anew(tree, cache, change, caplog):
    cached(tree, cache)
    before = ImageFolder(tree).samples
    CHANGES[change](tree)
    settle()
    images = found(tree, cache)
    assert images == ImageFolder(tree).samples != before and not is_hit(images)
    assert [record.levelname for record in caplog.records if "listed anew" in record.message] == ["WARNING"]
    index.keep(images, cache)
    assert is_hit(found(tree, cache)) and len(os.listdir(cache)) == 1


def test_other_classes_are_listed_anew(tree, cache):
    cached(tree, cache)
    images = found(tree, cache, ["a", "b", "c"])
    assert not is_hit(images) and images.classes == ["a", "b", "c"]


@pytest.mark.parametrize("folder", ["", "a/in/deep", "b/link"])
def test_a_folder_that_may_still_change_is_not_cached(tree, cache, monkeypatch, folder):
    monkeypatch.setattr(image_index, "RACY_NS", 10**9)
    time.sleep(1.1)
    touch(tree, folder, "just.now")
    images = listed(tree)
    assert images == ImageFolder(tree).samples
    index.keep(images, cache)
    assert not os.path.exists(cache)
    time.sleep(1.1)
    index.keep(listed(tree), cache)
    assert is_hit(found(tree, cache))


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_cache_that_cannot_be_written_costs_a_line(tree, tmp_path, caplog):
    cache = os.path.join(touch(tmp_path, "a file"), "below")
    index.keep(listed(tree), cache)
    line = "the index %s cannot be written: Not a directory" % path_of(tree, cache)
    assert warnings_in(caplog) == [line]


def test_a_full_disk_costs_a_line(tree, cache, caplog, monkeypatch):
    path = cached(tree, cache)
    touch(tree, "a", "new.png")
    settle()

    def write_half(path, block):
        with open(path, "wb") as file:
            file.write(block[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index, "_write", write_half)
    images = found(tree, cache)
    caplog.clear()
    index.keep(images, cache)
    assert warnings_in(caplog) == ["the index %s cannot be written: No space left on device" % path]
    assert os.listdir(cache) == [os.path.basename(path)]


def test_a_read_only_folder_costs_a_line(tree, caplog):
    images, cache = listed(tree), tempfile.mkdtemp()
    os.chmod(cache, 0o555)
    with nobody():
        index.keep(images, cache)
    assert len(warnings_in(caplog)) == 1 and "Permission denied" in warnings_in(caplog)[0]
    assert os.listdir(cache) == []
    os.rmdir(cache)


def kept(root, *words):
    """The loaders of a data set, and what they leave behind."""
    loaders = load(root, *words)
    options = parsing.parse(["--data-path=" + root, *words])
    datasets.keep_indexes(options, loaders)
    return loaders


def hits(loaders):
    return [is_hit(batches.dataset.images) for batches in (loaders.train, loaders.val) if batches]


@pytest.mark.parametrize("option", ["--output-dir=", "--index-cache="])
def test_a_run_finds_what_the_one_before_has_kept(tmp_path, cache, option):
    root = make_folder(tmp_path / "data")
    settle()
    before = names_below(root)
    assert hits(kept(root)) == hits(kept(root, option + cache)) == [False, False]
    assert hits(kept(root, option + cache)) == [True, True]
    assert [name.split(".")[:2] for name in sorted(os.listdir(cache))] == [["index", "train"], ["index", "val"]]
    assert names_below(root) == before


def test_an_index_is_written_anew_where_the_folder_was_renamed(tmp_path, cache):
    root = make_folder(tmp_path / "data")
    settle()
    kept(root, "--output-dir=" + cache)
    loaders = load(root, "--output-dir=" + cache)
    os.rename(cache, cache + ".old")
    datasets.keep_indexes(parsing.parse(["--data-path=" + root, "--output-dir=" + cache]), loaders)
    assert hits(kept(root, "--output-dir=" + cache)) == [True, True]
    assert sorted(os.listdir(cache)) == sorted(os.listdir(cache + ".old"))


def test_an_evaluation_adds_an_index_only_where_it_is_told(tmp_path, cache):
    root = make_folder(tmp_path / "data")
    settle()
    kept(root, "--output-dir=" + cache, "--eval")
    assert not os.path.exists(cache)
    kept(root, "--index-cache=" + cache, "--eval")
    assert len(os.listdir(cache)) == 1


@pytest.mark.parametrize("inner", ["train", "val/a", "val/new", "linked/inner"])
def test_no_output_lies_among_the_images(tmp_path, capsys, inner):
    """Neither by a link to the data set, nor in a folder that is linked into it as a class."""
    root = make_folder(tmp_path / "data")
    (tmp_path / "pictures" / "linked").mkdir(parents=True)
    os.symlink(str(tmp_path / "pictures" / "linked"), os.path.join(root, "train", "c"))
    os.symlink(root, str(tmp_path / "link"))
    above = "pictures" if inner.startswith("linked") else "link"
    before = names_below(root)
    for option in ("--output-dir", "--index-cache"):
        path = os.path.join(str(tmp_path / above), inner)
        for mode in ("--epochs=1", "--eval", "--dry-run"):
            assert main.main(["--data-path=" + root, "%s=%s" % (option, path), mode]) == 2
            err = capsys.readouterr().err
            assert "%s %s lies among the images: name another folder" % (option, path) in err
            assert len(err.splitlines()) == 1
    assert names_below(root) == before


def test_the_option_changes_nothing_that_is_computed(tmp_path):
    def identity(*words):
        return parsing.identity(parsing.parse(["--data-path=x", *words]).as_dict())

    assert identity("--index-cache=somewhere") == identity()


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="the benchmarks need torch 2.1")
def test_the_benchmark_of_the_start(tmp_path, monkeypatch):
    from benchmarks import start

    monkeypatch.setattr(start, "CLASSES", 3)
    monkeypatch.setattr(start, "ROUNDS", 1)
    rows = start.run(types.SimpleNamespace(files=8, tree=str(tmp_path / "tree")))
    assert len(names_below(str(tmp_path / "tree"))) == 8
    assert {row.unit for row in rows} >= {"s"} and len({row.setting for row in rows}) == 5
    assert [row.ratio for row in rows if start.PEER in row.setting and row.unit == "s"] == [1.0]
    assert start.run(types.SimpleNamespace(files=99, tree=str(tmp_path / "tree")))[0].setting.startswith("8 files")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_an_index_that_others_may_write_is_not_trusted(tree, cache, caplog, mode):
    path = cached(tree, cache)
    os.chmod(path, mode)
    images = found(tree, cache)
    assert not is_hit(images) and images == ImageFolder(tree).samples
    assert warnings_in(caplog) == ["%s is listed anew: of the index in %s, other users may write to it" % (tree, path)]
    index.keep(images, cache)
    assert is_hit(found(tree, cache)) and os.stat(path).st_mode & 0o777 == mode & ~0o022


@pytest.mark.parametrize("mask", [0o002, 0o000, 0o027])
def test_an_index_is_written_for_its_owner_alone_to_change(tree, cache, mask):
    before = os.umask(mask)
    try:
        path = cached(tree, cache)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~mask & ~0o022


@pytest.mark.parametrize("owner, is_trusted", [(65534, False), (0, True)])
def test_an_index_of_another_user_is_not_trusted(tree, cache, caplog, monkeypatch, owner, is_trusted):
    path = cached(tree, cache)
    if os.geteuid() == 0:
        os.chown(path, owner, -1)
    else:
        own, monkeypatched = os.fstat, lambda handle: os.stat_result((*own(handle)[:4], owner, *own(handle)[5:]))
        monkeypatch.setattr(index.os, "fstat", monkeypatched)
    assert is_hit(found(tree, cache)) == is_trusted
    line = "%s is listed anew: of the index in %s, its owner is another user (%d)" % (tree, path, owner)
    assert warnings_in(caplog) == ([] if is_trusted else [line])


def test_an_index_that_is_cut_while_it_is_used_does_no_harm(tree, cache):
    path = cached(tree, cache)
    images = found(tree, cache)
    with open(path, "r+b") as file:
        file.truncate(10)
    assert images == ImageFolder(tree).samples  # one of MAPPED_FROM bytes would end the process by SIGBUS
    assert not is_hit(found(tree, cache))


def test_other_extensions_are_listed_anew(tree, cache, caplog):
    touch(tree, "a", "more.GIF")
    touch(tree, "b", "photo.heic")
    touch(tree, "loose.png")
    settle()
    cached(tree, cache)
    kinds = found(tree, cache).passed_over.kinds
    assert kinds == {".gif": 1, ".heic": 1, ".txt": 1} and found(tree, cache).passed_over.loose == 1
    asked = Decoding((".gif",))
    images = found(tree, cache, decoding=asked)
    assert not is_hit(images) and len(images) == 8 and images.passed_over.kinds == {".heic": 1, ".txt": 1}
    index.keep(images, cache)
    assert is_hit(found(tree, cache, decoding=asked))
    assert not is_hit(found(tree, cache))


def test_hidden_folders_are_not_listed(tree, cache, tmp_path):
    before = ImageFolder(tree).samples
    for name in (".ipynb_checkpoints", "__MACOSX", "a/@eaDir", "a/in/.thumbnails", "b/link/.Trash"):
        touch(tree, name, "x.png")
    os.symlink(tree, os.path.join(tree, "a", ".back"))  # would lead back, if it were looked into
    settle()
    cached(tree, cache)
    images = found(tree, cache)
    assert images == before and images.passed_over.folder_count == 6
    assert set(images.passed_over.folders) >= {".ipynb_checkpoints", "__MACOSX", "a/@eaDir", "a/in/.thumbnails"}
    known = list_images(tree, [".ipynb_checkpoints", "a", "b"])  # a class of a run that an older version trained
    assert len(known) == len(before) + 1 and known[0] == (os.path.join(tree, ".ipynb_checkpoints", "x.png"), 0)
    assert known.passed_over.folder_count == 5


def test_kinds_of_files_are_bounded():
    passed_over = PassedOver()
    names = ["x.%dq" % number for number in range(5000)] + [
        ".DS_Store",
        "no",
        "x.b\n",
        "x." + 30 * "y",
        "X.HEIC",
        "x.1",
    ]
    passed_over.add_files(names)
    assert sum(passed_over.kinds.values()) == 5006 and len(passed_over.kinds) == 1001
    few = PassedOver()
    few.add_files(names[5000:])
    assert few.lines()[0].startswith("6 files passed over: .1 1, .ds_store 1, .heic 1, no extension 1, others 2; --ext")
    (line,) = passed_over.lines()
    assert len(line) < 200 and line.startswith("5006 files passed over: .0q 1, ") and line.endswith(" of other kinds")
    again = PassedOver.from_dict(json.loads(json.dumps(passed_over.as_dict())))
    assert again.lines() == passed_over.lines()
