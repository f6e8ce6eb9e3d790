"""Files on an S3 server: read in ranges, waited for while it is away, and told from one another by their stamps."""

import errno
import random
import threading
import time

import pytest
from processes import wait_for

from runtime.errors import UserError
from storage import remote
from storage.files import DEFAULT, Storage, exists, is_folder, join
from storage.remote import NetworkLost

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def store(object_store, monkeypatch):
    """The server with some files; s3fs itself tries but once."""
    for name, data in {"d/a.bin": CONTENT, "d/e/b.bin": b"b", "f": b"f"}.items():
        object_store.put(name, data)
    monkeypatch.setattr(remote, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote.filesystem("s3://").clear_instance_cache()  # tests before this one may have let it try more often
    return object_store


def test_ranges_and_whole_files(store):
    url = store.url("d/a.bin")
    found = remote.read_ranges([(url, 300, 310), (url, 0, None), (store.url("d/e/b.bin"), 0, 1)])
    assert found == [CONTENT[300:310], CONTENT, b"b"]
    assert remote.read_ranges([]) == []


def test_what_is_not_there_is_an_error_of_its_own(store):
    found = remote.read_ranges([(store.url("f"), 0, 1), (store.url("gone"), 0, 1)])
    assert found[0] == b"f" and isinstance(found[1], FileNotFoundError)
    assert isinstance(remote.stamps([store.url("gone")])[0], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        DEFAULT.open(store.url("gone"))


def test_a_file_that_is_shorter_than_it_was_is_not_taken(store):
    (found,) = remote.read_ranges([(store.url("f"), 0, 10)])
    assert isinstance(found, OSError) and "1 bytes where 10 were asked for" in str(found)


def test_stamps_tell_versions_of_the_same_size(store):
    url = store.url("f")
    before = remote.stamps([url])
    assert remote.stamps([url]) == before and before[0][0] == 1
    store.put("f", b"g")
    assert remote.stamps([url]) != before


def test_folders(store):
    assert remote.list_folder(store.url("d")) == (["e"], ["a.bin"])
    assert list(remote.walk(store.url("d"))) == [("", ["a.bin"]), ("e", ["b.bin"])]
    assert is_folder(store.url("d")) and not is_folder(store.url("f")) and exists(store.url("f"))
    assert not exists(store.url("d/none")) and isinstance(remote.stamps([store.url("d")])[0], IsADirectoryError)


def test_paths_are_joined_to_urls():
    assert join("s3://b/d", "../e/a.png") == "s3://b/e/a.png"
    assert join("s3://b/d", "https://h/a.png") == "https://h/a.png"
    assert join("/d", "s3://b/a.png") == "s3://b/a.png"
    assert join("/d", "../a.png") == "/d/../a.png"


def test_a_server_that_is_away_for_a_while_is_waited_for(store, caplog):
    def start_when_told():
        wait_for(lambda: "it is tried again, for up to 60 s" in caplog.text)
        store.start()

    caplog.set_level("WARNING")
    store.stop()
    starter = threading.Thread(target=start_when_told)
    starter.start()
    assert remote.read_all(store.url("f"), 60) == b"f"
    starter.join()


def test_a_server_that_stays_away_ends_the_wait_in_time(store):
    store.stop()
    began = time.monotonic()
    with pytest.raises(NetworkLost, match=r"some-bucket/f: .*\(--dist-timeout\)"):
        remote.read_all(store.url("f"), 1)
    assert time.monotonic() - began < 20


def test_waiting_leaves_the_random_numbers_of_the_process_alone(monkeypatch):
    """Images depend on them."""
    monkeypatch.setattr(remote, "_FIRST_DELAY_S", 0.001)
    left = [ConnectionError(), TimeoutError()]

    def act():
        if left:
            raise left.pop()
        return "done"

    state = random.getstate()
    assert remote.persist(act, "s3://b/f", 10) == "done" and not left
    assert random.getstate() == state


@pytest.mark.parametrize(
    "status, is_waited_for", [(500, True), (503, True), (429, True), (404, False), (403, False), (416, False)]
)
def test_an_answer_tells_whether_waiting_helps(status, is_waited_for):
    class ClientResponseError(Exception):
        pass

    error = ClientResponseError()
    error.status = status
    assert remote.is_transient(error) == is_waited_for


def test_a_full_disk_of_this_machine_is_not_waited_for():
    assert not remote.is_transient(OSError(errno.ENOSPC, "No space left on device"))
    assert remote.is_transient(OSError(errno.ECONNRESET, "Connection reset by peer"))


def test_a_wrong_key_is_not_waited_for(store):
    def fail():
        raise PermissionError("Access Denied")

    with pytest.raises(PermissionError):
        remote.persist(fail, "s3://b/f", 100)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def fail(url):
        raise ImportError("no s3fs")

    monkeypatch.setattr(remote, "filesystem", fail)
    with pytest.raises(UserError, match="--val-data s3://b/f: URLs are read by s3fs .*: pip install s3fs"):
        remote.check_url("s3://b/f", "--val-data s3://b/f")


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("gigabytes", [0, 2**20, 2**30])
def test_reads_at_any_place_are_right_with_any_cache(store, tmp_path, in_order, gigabytes):
    storage = Storage(str(tmp_path) if gigabytes else "", gigabytes, 10)
    file = storage.open_at(store.url("d/a.bin"), in_order)
    for size, position in [
        (512, 0),
        (10, 2**20 - 5),
        (2**20, 100),
        (100, len(CONTENT) - 50),
        (5, len(CONTENT)),
        (0, 7),
    ]:
        assert file.read_at(size, position) == CONTENT[position : position + size]


def test_what_is_cached_is_not_fetched_again(store, tmp_path, monkeypatch):
    storage = Storage(str(tmp_path), 2**30, 10)
    storage.open_at(store.url("d/a.bin")).read_at(10, 5)
    file = storage.open_at(store.url("d/a.bin"))
    monkeypatch.setattr(remote, "_fetch", None)
    assert file.read_at(1000, 300) == CONTENT[300:1300]
