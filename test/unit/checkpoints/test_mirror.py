"""What lies at a --mirror URL, on a file system in memory, and the process that uploads."""

import json
import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT
from processes import is_running, wait_for

from checkpoints import mirror_client, mirror_worker
from checkpoints.mirror import MANIFEST, Mirror, MirrorError, Superseded, is_file
from runtime.errors import RunError, UserError
from storage import remote

URL = "memory://bucket/run"


@pytest.fixture
def memory(monkeypatch):
    """The file system in memory, empty."""
    try:
        import fsspec
    except ImportError:
        pytest.skip("NOT CHECKED: object storage, without fsspec")
    monkeypatch.setitem(remote.PACKAGES, "memory", "fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def names(memory):
    return sorted(path.rpartition("/")[2] for path in memory.find("/bucket/run"))


def write_set(folder, text, best=None):
    """Write three files, of which the best checkpoint is the latest unless `best` is given; return them by name."""
    os.makedirs(str(folder), exist_ok=True)
    files = {}
    for name, content in (("config.yaml", "options"), ("best.pth", best or text), ("checkpoint.pth", text)):
        files[name] = os.path.join(str(folder), name)
        with open(files[name], "w") as file:
            file.write(content * 100)
    return files


def contents(folder):
    found = {}
    for name in os.listdir(str(folder)):
        with open(os.path.join(str(folder), name)) as file:
            found[name] = file.read()
    return found


def test_what_is_uploaded_is_restored_and_equal_files_are_there_once(memory, tmp_path):
    made = Mirror(URL, 0).upload("a run", 3, 7, write_set(tmp_path / "one", "weights"))
    assert len(names(memory)) == 3 and [name.partition(".")[0] for name in names(memory)] == [
        "best",
        "config",
        "mirror",
    ]
    found = Mirror(URL + "/", 0).open()
    assert found == made and (found["run"], found["epoch"], found["step"]) == ("a run", 3, 7)
    assert names(memory)[-1] == MANIFEST  # the test of writing is gone
    os.makedirs(str(tmp_path / "two"))
    Mirror(URL, 0).restore(found, str(tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert is_file(str(tmp_path / "two" / "best.pth"), found["files"]["best.pth"])
    assert not is_file(str(tmp_path / "two" / "config.yaml"), found["files"]["best.pth"])


def test_the_set_before_stays_and_older_ones_and_those_of_killed_runs_are_removed(memory, tmp_path):
    mirror = Mirror(URL, 0)
    mirror.open()
    for other in ("notes.txt", "checkpoint.pth", "checkpoint.pth." + "0" * 16):
        memory.pipe_file("/bucket/run/" + other, b"x")
    sets = [mirror.upload("a run", n, 0, write_set(tmp_path, "weights %d" % n, best="best")) for n in range(3)]
    kept = {entry["object"] for made in sets[1:] for entry in made["files"].values()}
    assert set(names(memory)) == {*kept, MANIFEST, "notes.txt", "checkpoint.pth"} and len(kept) == 4


def test_an_upload_that_is_cut_off_anywhere_leaves_a_whole_set(memory, tmp_path, monkeypatch):
    Mirror(URL, 0).upload("a run", 1, 0, write_set(tmp_path / "first", "first", best="best"))
    for count in range(4):
        mirror, left = Mirror(URL, 0), [count]
        mirror.open()

        def limited(method, left=left):
            def put(self, *arguments, **more):
                if not left[0]:
                    raise PermissionError("killed")
                left[0] -= 1
                return method(self, *arguments, **more)

            return put

        files = write_set(tmp_path / "next", "next %d" % count, best="best %d" % count)
        with monkeypatch.context() as patch:
            for name in ("put_file", "pipe_file"):
                patch.setattr(type(memory), name, limited(getattr(type(memory), name)))
            if count < 3:  # two checkpoints and the manifest; config.yaml is there
                with pytest.raises(PermissionError):
                    mirror.upload("a run", 2, 0, files)
            else:
                mirror.upload("a run", 2, 0, files)
        found = Mirror(URL, 0).open()
        assert found["epoch"] == (1 if count < 3 else 2)
        os.makedirs(str(tmp_path / str(count)))
        Mirror(URL, 0).restore(found, str(tmp_path / str(count)))
        assert contents(tmp_path / str(count)) == contents(tmp_path / ("first" if count < 3 else "next"))


def test_what_was_set_aside_stays_whole(memory, tmp_path):
    first = Mirror(URL, 0)
    made = first.upload("first", 1, 0, write_set(tmp_path, "first"))
    asides = [first.set_aside()]
    assert Mirror(URL, 0).open() is None
    for run in ("second", "third"):
        mirror = Mirror(URL, 0)
        mirror.open()
        for n in range(3):
            mirror.upload(run, n, 0, write_set(tmp_path, "%s %d" % (run, n)))
        asides.append(mirror.set_aside())
    assert len(set(asides)) == 3
    memory.mv("/bucket/run/" + asides[0], "/bucket/run/" + MANIFEST)
    os.makedirs(str(tmp_path / "restored"))
    Mirror(URL, 0).restore(made, str(tmp_path / "restored"))
    assert Mirror(URL, 0).open() == made and contents(tmp_path / "restored")["checkpoint.pth"] == "first" * 100


def test_another_run_at_the_same_place_is_noticed(memory, tmp_path):
    first, second = Mirror(URL, 0), Mirror(URL, 0)
    first.open()
    second.open()
    second.upload("second", 1, 0, write_set(tmp_path, "second"))
    before = names(memory)
    with pytest.raises(MirrorError, match=r"another run has replaced or removed mirror\.json"):
        first.upload("first", 1, 0, write_set(tmp_path, "first"))
    assert names(memory) == before
    second.set_aside()
    third = Mirror(URL, 0)
    third.open()
    third.upload("third", 1, 0, write_set(tmp_path, "third"))
    memory.rm_file("/bucket/run/" + MANIFEST)
    with pytest.raises(MirrorError):
        third.upload("third", 2, 0, write_set(tmp_path, "more"))


def test_what_a_killed_process_of_the_run_had_sent_may_arrive_late(memory, tmp_path):
    old, new = Mirror(URL, 0), Mirror(URL, 0)
    new.open()  # before the first set of the old one is there
    old.upload("a run", 1, 1, write_set(tmp_path, "one"))
    with pytest.raises(MirrorError):
        new.upload("a run", 1, 0, write_set(tmp_path, "none"))
    assert new.upload("a run", 1, 1, write_set(tmp_path, "one"))["step"] == 1
    old.upload("a run", 1, 2, write_set(tmp_path, "two"))
    assert new.upload("a run", 1, 3, write_set(tmp_path, "three"))["step"] == 3


def test_a_damaged_file_is_not_restored(memory, tmp_path):
    made = Mirror(URL, 0).upload("a run", 1, 0, write_set(tmp_path / "one", "weights", best="best"))
    memory.pipe_file("/bucket/run/" + made["files"]["checkpoint.pth"]["object"], b"weights" * 99)
    write_set(tmp_path / "two", "older")
    with pytest.raises(MirrorError, match="is damaged"):
        Mirror(URL, 0).restore(made, str(tmp_path / "two"))
    assert contents(tmp_path / "two")["checkpoint.pth"] == "older" * 100
    assert sorted(os.listdir(str(tmp_path / "two"))) == ["best.pth", "checkpoint.pth", "config.yaml"]
    memory.rm_file("/bucket/run/" + made["files"]["checkpoint.pth"]["object"])
    with pytest.raises(OSError):
        Mirror(URL, 0).restore(made, str(tmp_path / "two"))


def changed(path, value):
    """Return a change of a manifest: the value at a path of keys."""

    def change(manifest):
        inner = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return manifest

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: [],
        lambda manifest: {},
        changed(["format"], 2),
        changed(["epoch"], "1"),
        changed(["run"], None),
        changed(["files"], {}),
        changed(["files", "../x"], {"object": "config.yaml." + "0" * 16, "bytes": 1, "sha256": "0" * 64}),
        changed(["files", "best.pth", "object"], "../other/best.pth." + "0" * 16),
        changed(["files", "best.pth", "sha256"], "0"),
        changed(["files", "best.pth"], 3),
    ],
)
def test_a_manifest_that_is_none_is_refused(memory, tmp_path, change):
    made = Mirror(URL, 0).upload("a run", 1, 0, write_set(tmp_path, "weights"))
    memory.pipe_file("/bucket/run/" + MANIFEST, json.dumps(change(made)).encode())
    with pytest.raises(UserError, match=r"--mirror memory://bucket/run: mirror\.json there is not a manifest"):
        Mirror(URL, 0).open()


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{", b"[" * 10**5])
def test_a_manifest_that_is_no_json_is_refused(memory, data):
    memory.pipe_file("/bucket/run/" + MANIFEST, data)
    with pytest.raises(UserError, match="not a manifest"):
        Mirror(URL, 0).open()


def test_an_upload_that_waits_for_the_network_is_given_up_for_a_newer_one(memory, tmp_path, monkeypatch):
    def put_file(system, source, target):
        raise ConnectionError

    monkeypatch.setattr(remote, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(Superseded):
        Mirror(URL, 60, lambda: True).upload("a run", 1, 0, write_set(tmp_path, "weights"))
    assert not memory.store


def test_an_upload_that_goes_on_is_finished_before_a_newer_one(memory, tmp_path):
    """Otherwise slow uploads of a run that saves often would all be given up."""
    Mirror(URL, 60, lambda: True).upload("a run", 1, 0, write_set(tmp_path, "weights"))
    assert MANIFEST in names(memory)


def test_of_the_uploads_that_wait_the_newest_is_kept():
    sent = []
    requests = mirror_worker.Requests(sent.append)
    for number, act in enumerate(("upload", "set_aside", "upload", "upload")):
        requests.put({"id": number, "act": act})
    assert requests.has_newer_upload()
    requests.end()
    assert [request["id"] for request in iter(requests.get, None)] == [1, 3]
    assert sent == [{"id": 0, "superseded": True}, {"id": 2, "superseded": True}]


def test_a_process_that_was_killed_is_started_again():
    process = mirror_client.MirrorProcess("ftp://there/run", 1)
    with pytest.raises(UserError, match="no such kind of URL"):
        process.call(lambda: None, "open")
    for _ in range(2):
        process._process.kill()
        process._process.wait()
        with pytest.raises((UserError, RunError)) as caught:
            process.call(lambda: None, "open")
        assert "has ended" in str(caught.value) or "Broken pipe" in str(caught.value)
        with pytest.raises(UserError, match="no such kind of URL"):
            process.call(lambda: None, "open")
    process.close()
    assert process.is_idle


PARENT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from checkpoints.mirror_client import MirrorProcess
process = MirrorProcess("ftp://there/run", 1)
try:
    process.call(lambda: None, "open")
except ValueError:
    print(process._process.pid, flush=True)
if os.fork() == 0:
    signal.pause()  # a loader process, which has the pipe too
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_no_process_outlives_a_killed_run():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, ROOT], stdout=subprocess.PIPE, start_new_session=True)
    number = int(parent.stdout.readline())
    parent.wait()
    wait_for(lambda: not is_running(number), 20)
    os.killpg(parent.pid, signal.SIGKILL)
