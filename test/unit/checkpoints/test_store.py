"""Saving checkpoints, and finding them."""

import os
import pickle
import socket

import pytest
import torch

import utils
from checkpoints import loading, store
from runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("no_hang")


def path_of(folder, name=store.LATEST):
    return os.path.join(str(folder), name)


def test_save_keeps_the_one_before_and_the_best(tmp_path):
    for number, is_best in enumerate([True, False, False]):
        store.save({"model": {"w": torch.full((2,), float(number))}}, str(tmp_path), is_best)
    assert loading.load(path_of(tmp_path))["model"]["w"][0] == 2
    assert loading.load(path_of(tmp_path, store.PREVIOUS))["model"]["w"][0] == 1
    assert loading.load(path_of(tmp_path, store.BEST))["model"]["w"][0] == 0
    assert sorted(os.listdir(str(tmp_path))) == sorted([store.LATEST, store.PREVIOUS, store.BEST])


def test_a_failed_save_leaves_the_old_one(tmp_path):
    store.save({"model": {}}, str(tmp_path), True)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        store.save({"model": lambda: None}, str(tmp_path), True)
    assert loading.load(path_of(tmp_path)) == {"model": {}}
    assert sorted(os.listdir(str(tmp_path))) == [store.BEST, store.LATEST]


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    store.save({"model": {}}, str(tmp_path), True)
    (tmp_path / (utils.TEMPORARY % ("%032x" % 7))).write_bytes(b"half")
    users = [".0a.tmp", "mine.tmp", store.BEST + ".tmp", utils.TEMPORARY % "mine"]
    for name in users:
        (tmp_path / name).write_bytes(b"the user's")
    utils.remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(str(tmp_path))) == sorted([store.BEST, store.LATEST] + users)


def test_files_of_the_user_that_look_temporary_survive_a_save(tmp_path):
    names = [name + ".tmp" for name in (store.LATEST, store.PREVIOUS, store.BEST)]
    for name in names:
        (tmp_path / name).write_bytes(b"the user's")
    for _ in range(2):
        store.save({"model": {}}, str(tmp_path), True)
    assert all((tmp_path / name).read_bytes() == b"the user's" for name in names)
    assert len(os.listdir(str(tmp_path))) == 6


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_checkpoint_is_on_the_disk_before_it_has_a_name(tmp_path, monkeypatch, links):
    """The whole file is synced before each rename, and the folder after the last one."""
    synced, renamed = [], []

    def fsync(handle, really=os.fsync):
        status = os.fstat(handle)
        synced.append((status.st_ino, status.st_size))
        return really(handle)

    def replace(source, target, really=os.replace):
        status = os.stat(source)
        assert (status.st_ino, status.st_size) in synced, target
        renamed.append(os.path.basename(target))
        synced[:] = [entry for entry in synced if entry[0] != os.stat(str(tmp_path)).st_ino]
        return really(source, target)

    def refuse(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for is_best in (True, False):
        store.save({"model": {"w": torch.ones(99)}}, str(tmp_path), is_best)
        assert os.stat(str(tmp_path)).st_ino in [inode for inode, _ in synced]
    assert renamed == [store.BEST, store.LATEST, store.PREVIOUS, store.LATEST]


def test_where_links_do_not_work_a_copy_is_kept(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for number in range(2):
        store.save({"model": {"w": torch.full((2,), float(number))}}, str(tmp_path), number == 0)
    for name in (store.PREVIOUS, store.BEST):
        assert loading.load(path_of(tmp_path, name))["model"]["w"][0] == 0


def test_a_checkpoint_that_cannot_be_written_is_reported_with_the_free_space(tmp_path):
    (tmp_path / "c.pth").mkdir()
    with pytest.raises(store.SaveError, match=r"c\.pth cannot be written: Is a directory \(\d+ MB free\)"):
        store.save_as({"model": {}}, str(tmp_path / "c.pth"))
    assert os.listdir(str(tmp_path)) == ["c.pth"]


def test_resume_takes_a_file_or_its_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        store.resolve(path_of(tmp_path))
    with pytest.raises(UserError, match="holds neither"):
        store.resolve(str(tmp_path))
    store.save({"model": {}}, str(tmp_path), True)
    assert store.resolve(str(tmp_path)) == path_of(tmp_path)
    assert store.resolve(path_of(tmp_path)) == path_of(tmp_path)


def test_a_folder_above_the_runs_names_those_that_hold_a_checkpoint(tmp_path):
    for name in ("output/0", "output/1", ".venv/lib", "a/b/c/too deep"):
        (tmp_path / name).mkdir(parents=True)
        store.save({"model": {}}, str(tmp_path / name), False)
    for above, end in ((tmp_path, ""), (tmp_path / "output", os.sep)):
        with pytest.raises(UserError) as caught:
            store.resolve(str(above) + end)
        message = str(caught.value)
        hints = message.partition("nor best.pth; it has checkpoints below, in ")[2].split(", ")
        assert [os.path.relpath(hint, str(tmp_path)) for hint in hints] == ["output/0", "output/1"], message
    for number in range(2, 5):
        (tmp_path / "output" / str(number)).mkdir()
        store.save({"model": {}}, str(tmp_path / "output" / str(number)), False)
    with pytest.raises(UserError, match="output/2 and 2 more$"):
        store.resolve(str(tmp_path))


def test_a_folder_with_the_previous_checkpoint_alone_is_enough(tmp_path):
    store.save_as({"model": {}}, path_of(tmp_path, store.PREVIOUS))
    for names in (store.FOR_TRAINING, store.FOR_WEIGHTS):
        assert store.resolve(str(tmp_path), names) == path_of(tmp_path, store.PREVIOUS)


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "socket", "folder"])
def test_only_regular_files_are_read(tmp_path, kind, caplog):
    """Reading a pipe would wait for its writer, and reading a device would fill the memory."""
    (tmp_path / "run").mkdir()
    odd = path_of(tmp_path / "run")
    make = {
        "pipe": lambda: os.mkfifo(odd),
        "link to a pipe": lambda: (os.mkfifo(str(tmp_path / "pipe")), os.symlink(str(tmp_path / "pipe"), odd)),
        "device": lambda: os.symlink("/dev/zero", odd),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(odd),
        "folder": lambda: os.mkdir(odd),
    }
    make[kind]()
    store.save_as({"model": {"w": torch.ones(2)}}, path_of(tmp_path / "run", store.PREVIOUS))
    assert store.resolve(str(tmp_path / "run")) == path_of(tmp_path / "run", store.PREVIOUS)
    assert "is not a regular file" in caplog.text
    loaded, path, damaged = loading.load_first_good(store.checkpoints_in(str(tmp_path / "run")))
    assert path == path_of(tmp_path / "run", store.PREVIOUS) and damaged == [odd]
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        loading.load(odd)
    os.unlink(path_of(tmp_path / "run", store.PREVIOUS))
    with pytest.raises(UserError, match="the folder holds neither"):
        store.resolve(str(tmp_path / "run"))
    if kind != "folder":
        with pytest.raises(UserError, match="neither a file nor a folder"):
            store.resolve(odd)
