"""Images in archives are read in place, by any number of processes, and nothing else is read in their stead."""

import multiprocessing
import os
import pickle
import zipfile
import zlib

import pytest
from limits import open_files
from made_archives import listed, tar_bytes, write, zip_bytes

import pipeline.readers.archives
from pipeline.readers.archives import ArchiveReader

IMAGES = [("n1/%d.jpg" % number, bytes([number]) * (number * 100)) for number in range(10)]


def stamp_of(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def reader_of(*paths):
    return ArchiveReader(paths, [stamp_of(path) for path in paths])


def keys_of(path, shard=0):
    return [(shard, ~member.offset if member.is_deflated else member.offset, member.size) for member in listed(path)[0]]


@pytest.fixture
def tar(tmp_path):
    return write(tmp_path, tar_bytes(IMAGES))


@pytest.fixture
def deflated(tmp_path):
    return write(tmp_path, zip_bytes(IMAGES, zipfile.ZIP_DEFLATED), "train.zip")


def test_members_are_read_in_any_order(tar, deflated):
    reader = reader_of(tar, deflated)
    for number in (3, 9, 0, 3):
        for keys in (keys_of(tar), keys_of(deflated, 1)):
            with reader.open(keys[number]) as file:
                assert file.seek(0, 2) == number * 100 and file.seek(0) == 0
                assert file.read() == IMAGES[number][1]


def test_a_member_is_named_with_its_archive(tmp_path, tar, deflated):
    odd = write(tmp_path, tar_bytes([("n1/a\n\udcff.jpg", b"1")]), "odd.tar")
    reader = reader_of(tar, deflated, odd)
    assert reader.describe(keys_of(tar)[4]) == tar + ":n1/4.jpg"
    assert reader.describe(keys_of(deflated, 1)[0]) == deflated + ":n1/0.jpg"
    assert reader.describe(keys_of(odd, 2)[0]) == "$'%s:n1/a\\n\\xff.jpg'" % odd


def test_a_member_of_an_archive_that_is_gone_is_named_by_its_bytes(tar):
    reader, keys = reader_of(tar), keys_of(tar)
    os.truncate(tar, 700)
    assert reader.describe(keys[4]) == "%s: bytes %d to %d" % (tar, keys[4][1], keys[4][1] + 400)
    os.unlink(tar)
    assert reader.describe((0, ~50, 7)) == tar + ": bytes 50 to 57"


def test_a_reader_passes_to_another_process_without_its_open_files(tar):
    reader, keys = reader_of(tar), keys_of(tar)
    reader.open(keys[1])
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy.open(keys[2]).read() == IMAGES[2][1]
    assert (copy.paths, copy.stamps) == (reader.paths, reader.stamps)


def _read_often(reader, keys, result):
    result.put(all(reader.open(key).read() == image for _ in range(200) for key, (_, image) in zip(keys, IMAGES)))


def test_forked_processes_do_not_disturb_one_another(tar):
    reader, keys = reader_of(tar), keys_of(tar)
    reader.open(keys[0])
    fork = multiprocessing.get_context("fork")
    result = fork.SimpleQueue()
    processes = [fork.Process(target=_read_often, args=(reader, keys, result)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [result.get() for _ in processes]
    for process in processes:
        process.join()
    assert answers == [True, True] and reader.open(keys[5]).read() == IMAGES[5][1]


def test_few_of_many_archives_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.readers.archives, "_MOST_OPEN", 3)
    paths = [write(tmp_path, tar_bytes([("a", b"%d" % number)]), "%d.tar" % number) for number in range(12)]
    reader = reader_of(*paths)
    with open_files(3):
        for number in list(range(12)) + [11, 0, 11, 1]:
            assert reader.open((number, 512, len(str(number)))).read() == b"%d" % number
    assert set(reader._files) == {11, 0, 1}
    reader.close()
    assert reader.open((5, 512, 1)).read() == b"5"


def test_a_program_that_is_started_inherits_no_open_archive(tar):
    reader = reader_of(tar)
    reader.open(keys_of(tar)[1])
    assert not os.get_inheritable(reader._files[0]._file.fileno())


@pytest.mark.parametrize("change", ["longer", "shorter", "later", "replaced"])
def test_an_archive_that_has_changed_is_not_read(tar, change):
    reader, keys = reader_of(tar), keys_of(tar)
    size, modified = stamp_of(tar)
    if change == "later":
        os.utime(tar, ns=(modified, modified + 10**9))
    elif change == "replaced":
        os.unlink(tar)
        with open(tar, "wb") as file:
            file.write(bytes(size))
        os.utime(tar, ns=(modified, modified - 1000))
    else:
        os.truncate(tar, size + (512 if change == "longer" else -512))
        os.utime(tar, ns=(modified, modified))
    with pytest.raises(OSError, match="the archive has changed since it was listed"):
        reader.open(keys[1])


def test_an_archive_that_is_cut_off_under_way(tar):
    reader, keys = reader_of(tar), keys_of(tar)
    assert len(reader.open(keys[9]).read()) == 900
    os.truncate(tar, keys[9][1] + 100)
    with pytest.raises(OSError, match="the archive ends too early"):
        reader.open(keys[9])
    with pytest.raises(OSError, match="the archive ends too early"):
        reader.open((0, 512, 10**15))


def test_a_read_that_is_cut_short_is_continued(tar, monkeypatch):
    reader, pread = reader_of(tar), os.pread
    monkeypatch.setattr(os, "pread", lambda handle, size, offset: pread(handle, min(size, 7), offset))
    keys = [(0, 512 + 0, 0)] + [(0, 1024, 100)]
    assert reader.open(keys[1]).read() == IMAGES[1][1]


def test_a_pipe_is_not_waited_for(tmp_path):
    path = str(tmp_path / "shard.tar")
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        reader_of(path).open((0, 512, 1))


def test_a_missing_archive_is_an_error_of_the_system(tar):
    reader = reader_of(tar)
    os.unlink(tar)
    with pytest.raises(FileNotFoundError):
        reader.open((0, 512, 1))


def test_a_member_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, zip_bytes([("bomb", bytes(10**6))], zipfile.ZIP_DEFLATED))
    assert len(reader_of(path).open(keys_of(path)[0]).read()) == 10**6
    monkeypatch.setattr(pipeline.readers.archives, "_MOST_EXPANDED", 999999)
    with pytest.raises(OSError, match="it expands to more than 999999 bytes"):
        reader_of(path).open(keys_of(path)[0])


def test_damaged_deflated_contents(tmp_path):
    whole = zlib.compress(b"contents" * 9)[2:-4]
    path = write(tmp_path, whole[:-3] + b"\xff" * 300)
    with pytest.raises(OSError, match="its deflated contents end too early"):
        reader_of(path).open((0, ~0, len(whole) - 3))
    with pytest.raises(OSError, match="its deflated contents are damaged: Error -3"):
        reader_of(path).open((0, ~(len(whole) + 10), 100))
