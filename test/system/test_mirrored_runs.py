"""--mirror against an S3 server on loopback: killed runs, emptied disks, a lost server, several machines."""

import hashlib
import json
import os
import shutil
import signal
import socket

import pytest
from processes import wait_for
from small_runs import assert_same_result
from warm_runs import OPTIONS, current_torch, run_main, start_main

from checkpoints import store

pytestmark = current_torch


def words_for(data, out, object_store, *more):
    """The command line of a run of 2 epochs of 6 steps that saves, and uploads, each step."""
    words = ["--data-path=" + data, "--output-dir=" + str(out), "--epochs=2", "--checkpoint-steps=1"]
    return [*words, "--mirror=" + object_store.url("a/run"), *OPTIONS, *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return (images, the output folder of a run on them that nothing disturbs)."""
    from image_folders import write_images

    folder = tmp_path_factory.mktemp("undisturbed")
    data = write_images(str(folder / "images"))
    words = ["--data-path=" + data, "--output-dir=" + str(folder / "out"), "--epochs=2", *OPTIONS]
    assert run_main(words)[0] == 0
    return data, str(folder / "out")


def manifest_of(object_store):
    """Return the manifest, after a look at whether all is there that it names."""
    found = object_store.files()
    manifest = json.loads(found["a/run/mirror.json"])
    for entry in manifest["files"].values():
        data = found["a/run/" + entry["object"]]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    return manifest


def place_of(object_store):
    """Return the epoch and step of the checkpoint in the mirror; (-2, 0) without one."""
    text = object_store.read("a/run/mirror.json")
    manifest = json.loads(text) if text else {"epoch": -2, "step": 0}
    return manifest["epoch"], manifest["step"]


def start_until_held(object_store, words, part=r"checkpoint\.pth\."):
    """Start a run and wait until its second upload of this part is on its way, which `release` lets through."""
    object_store.hold("PUT", part, after=1)
    run = start_main(words)
    wait_until_held(object_store, run)
    return run


def wait_until_held(object_store, run):
    wait_for(lambda: object_store.waiting or run.poll() is not None)
    assert run.poll() is None, run.communicate()


def kill(run):
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def has(out, object_store):
    """Return whether the mirror has the checkpoint of the output folder."""
    with open(os.path.join(str(out), store.LATEST), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return manifest_of(object_store)["files"][store.LATEST]["sha256"] == digest


def test_a_run_that_is_killed_resumes_on_an_empty_disk(tmp_path, object_store, undisturbed):
    data, reference = undisturbed
    words, out, places = words_for(data, tmp_path / "out", object_store), tmp_path / "out", []
    for _ in range(2):
        kill(start_until_held(object_store, words))
        object_store.release()
        places.append(place_of(object_store))
        manifest_of(object_store)
        shutil.rmtree(str(out))
    text = run_main(words)[1]
    assert "its checkpoint (epoch %d, step %d) was restored into %s" % (places[1][0] + 1, places[1][1], out) in text
    assert places[0] < places[1] and has(out, object_store)
    assert_same_result(out, reference)
    assert not [name for name in os.listdir(str(out)) if name.startswith(".spach")]


@pytest.mark.parametrize("part", [r"checkpoint\.pth\.", r"mirror\.json$"])
def test_a_run_that_is_killed_during_an_upload_leaves_a_whole_set(tmp_path, object_store, undisturbed, part):
    data, reference = undisturbed
    words, out = words_for(data, tmp_path / "out", object_store), tmp_path / "out"
    run = start_until_held(object_store, words, part)
    place = place_of(object_store)
    kill(run)
    assert place_of(object_store) == place
    object_store.release()
    manifest_of(object_store)
    shutil.rmtree(str(out))
    status, text, err = run_main(words)
    assert status == 0 and "was restored into" in text, err
    assert_same_result(out, reference)


def test_a_server_that_is_away_for_a_while_holds_nothing_up(tmp_path, object_store, undisturbed, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    data, reference = undisturbed
    out = tmp_path / "out"
    run = start_until_held(object_store, words_for(data, out, object_store, "--print-freq=1"))
    object_store.stop()
    object_store.release()
    place = place_of(object_store)
    wait_for(lambda: "waiting for the last upload" in run.read() and "it is tried again" in run.read())
    assert run.poll() is None and place_of(object_store) == place < (1, 0)
    object_store.start()
    text, err = run.communicate(timeout=300)
    assert run.returncode == 0 and has(out, object_store), err
    assert text.count("it is tried again") == 1 and "Could not connect" in text, text
    assert_same_result(out, reference)


def test_a_server_that_stays_away_is_told_at_the_end(tmp_path, object_store, undisturbed, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    data, reference = undisturbed
    words, out = words_for(data, tmp_path / "out", object_store), tmp_path / "out"
    run = start_until_held(object_store, [*words, "--dist-timeout=3"])
    object_store.stop()
    object_store.release()
    text, err = run.communicate(timeout=300)
    assert run.returncode == 1 and len(err.splitlines()) == 1, err
    assert "failed: --mirror %s is not up to date: " % object_store.url("a/run") in err and "--output-dir" in err
    assert "Weights: " in text
    assert_same_result(out, reference)
    object_store.start()
    assert not has(out, object_store)
    status, text, err = run_main(words)
    assert status == 0 and "nothing is left to train" in text and has(out, object_store), err
    assert_same_result(out, reference)


def test_a_signal_waits_for_the_last_upload(tmp_path, object_store, images):
    out = tmp_path / "out"
    run = start_main(words_for(images, out, object_store, "--epochs=99", "--print-freq=1"), 2)
    wait_for(lambda: place_of(object_store) > (-2, 0))
    object_store.hold("PUT", r"checkpoint\.pth\.")
    os.killpg(run.pid, signal.SIGTERM)
    wait_for(lambda: "waiting for the last upload" in run.read() or run.poll() is not None)
    with pytest.raises(AssertionError, match="in vain"):  # longer than a launcher waits for processes that are left
        wait_for(lambda: run.poll() is not None, 5)
    object_store.release()
    _, err = run.communicate(timeout=300)
    assert run.returncode == 143 and "run the same command again to resume" in err, err
    assert has(out, object_store)


def test_machines_without_a_common_folder_restore_one_checkpoint(tmp_path, object_store, undisturbed, monkeypatch):
    """Each machine has a folder of its own; the other one's is older, or not there at all."""
    (data, _), whole = undisturbed, tmp_path / "whole"
    for number in range(2):
        (tmp_path / str(number)).mkdir()

    def start():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        runs = []
        for rank in range(2):
            environ = {"ALONE": "1", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            monkeypatch.chdir(tmp_path / str(rank))
            environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            runs.append(start_main(words_for(data, "out", object_store), environ=environ))
        return runs

    first, second = (tmp_path / name / "out" for name in "01")
    for lost in ([], [first]):
        for folder in lost:
            shutil.rmtree(str(folder))
        object_store.hold("PUT", r"checkpoint\.pth\.", after=1)
        runs = start()
        wait_until_held(object_store, runs[0])
        for run in runs:
            kill(run)
        object_store.release()
    assert os.path.isfile(str(second / store.LATEST)) and not os.path.exists(str(second / "log.txt"))
    for run in start():
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
    assert run_main(["--data-path=" + data, "--output-dir=" + str(whole), "--epochs=2", *OPTIONS], 2)[0] == 0
    assert_same_result(first, whole)
