"""The cache of pieces of remote files: whole or not there, within its bound, whatever is killed, full or emptied."""

import errno
import os
import shutil
import time

import pytest

from runtime.errors import UserError
from storage import cache
from storage.cache import FOLDER, PIECE, PieceCache

SIZE = 3 * PIECE + 100
CONTENT = os.urandom(PIECE) * 3 + os.urandom(100)


def piece(number):
    return CONTENT[number * PIECE : (number + 1) * PIECE]


def opened(folder, name="a", most=10 * PIECE):
    return PieceCache(str(folder), most).open("s3://bucket/%s.tar" % name, (SIZE, -1))


def keep(file, *numbers):
    for number in numbers:
        assert file.reserve(number)
        file.keep(number, piece(number))


def age(folder, seconds=2 * 3600):
    for name in os.listdir(os.path.join(str(folder), FOLDER)):
        path = os.path.join(str(folder), FOLDER, name)
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def on_disk(folder):
    root = os.path.join(str(folder), FOLDER)
    return sum(os.stat(os.path.join(root, name)).st_blocks * 512 for name in os.listdir(root) if name.endswith(".data"))


def test_what_was_kept_is_there_for_the_next_process(tmp_path):
    keep(opened(tmp_path), 1, 3)
    file = opened(tmp_path)
    assert [file.has(number) for number in range(4)] == [False, True, False, True]
    assert file.read(200, PIECE - 1 + 1) == piece(1)[:200]
    assert file.read(200, 3 * PIECE) == piece(3)


def test_another_version_of_a_file_is_another_file(tmp_path):
    keep(opened(tmp_path), 0)
    assert not PieceCache(str(tmp_path), 10 * PIECE).open("s3://bucket/a.tar", (SIZE, -2)).has(0)


@pytest.mark.parametrize("damage", ["half written", "not flushed", "truncated"])
def test_a_piece_that_is_not_whole_counts_as_missing(tmp_path, damage):
    keep(opened(tmp_path), 0, 1)
    (path,) = [entry.path for entry in os.scandir(str(tmp_path / FOLDER)) if entry.name.endswith(".data")]
    with open(path, "r+b") as file:
        if damage == "truncated":
            file.truncate(PIECE + 5)
        else:
            file.seek(PIECE)
            file.write(bytes(PIECE if damage == "not flushed" else 1000))
    again = opened(tmp_path)
    assert again.has(0) and not again.has(1)
    keep(again, 1)
    assert opened(tmp_path).has(1)


def test_it_stays_within_its_bound(tmp_path):
    file = opened(tmp_path, most=2 * PIECE)
    keep(file, 0, 1)
    assert not file.reserve(2)
    assert on_disk(tmp_path) <= 2 * PIECE


def test_files_that_nobody_used_of_late_make_room(tmp_path):
    keep(opened(tmp_path, "old", 2 * PIECE), 0, 1)
    new = opened(tmp_path, "new", 2 * PIECE)
    assert not new.reserve(0)
    age(tmp_path)
    keep(opened(tmp_path, "new", 2 * PIECE), 0)
    assert not opened(tmp_path, "old").has(0)
    assert on_disk(tmp_path) <= 2 * PIECE


def test_a_full_cache_is_not_asked_again_at_once(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    file = opened(tmp_path, "new", PIECE)
    keep(opened(tmp_path, "old", PIECE), 0)
    assert not file.reserve(0)
    age(tmp_path)
    assert not file.reserve(0)
    now[0] += 61
    assert file.reserve(0)


def test_what_a_killed_process_had_reserved_is_free_again(tmp_path):
    file = opened(tmp_path, most=2 * PIECE)
    assert file.reserve(0) and file.reserve(1)  # and then it was killed
    keep(opened(tmp_path, most=2 * PIECE), 0, 1)


def test_a_full_disk_takes_nothing_and_ends_nothing(tmp_path, monkeypatch):
    file = opened(tmp_path, most=2 * PIECE)

    def fail(handle, data, position):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", fail)
        assert file.reserve(0)
        file.keep(0, piece(0))
    assert not file.has(0)
    assert not file.reserve(0)  # for a while
    assert opened(tmp_path, most=2 * PIECE).reserve(0)


def test_a_piece_that_could_not_be_fetched_leaves_its_room(tmp_path):
    file = opened(tmp_path, most=PIECE)
    assert file.reserve(0)
    file.keep(0, None)
    assert file.reserve(0)


def test_an_emptied_folder_is_filled_again(tmp_path):
    first = PieceCache(str(tmp_path), 10 * PIECE)
    keep(first.open("s3://b/a", (SIZE, -1)), 0)
    shutil.rmtree(str(tmp_path / FOLDER))
    file = first.open("s3://b/a", (SIZE, -1))
    assert not file.has(0)
    keep(file, 0)
    assert opened(tmp_path) and on_disk(tmp_path) == PIECE


def test_only_its_own_folder_is_touched(tmp_path):
    (tmp_path / "a.data").write_bytes(b"of the user")
    (tmp_path / "a.map").write_bytes(b"of the user")
    age_of = os.stat(str(tmp_path / "a.data")).st_mtime
    keep(opened(tmp_path, most=PIECE), 0)
    assert sorted(os.listdir(str(tmp_path))) == ["a.data", "a.map", FOLDER]
    assert os.stat(str(tmp_path / "a.data")).st_mtime == age_of


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--data-cache .*file cannot be written to: "):
        PieceCache(str(tmp_path / "file"), PIECE)
    os.mkdir(str(tmp_path / FOLDER))
    if os.geteuid() == 0:
        os.chown(str(tmp_path / FOLDER), 12345, -1)
        with pytest.raises(UserError, match="belongs to another user"):
            PieceCache(str(tmp_path), PIECE)
