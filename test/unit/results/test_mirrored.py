"""A run with --mirror, against an S3 server on loopback: what is restored, set aside, uploaded and refused."""

import json
import os
import shutil

import pytest
from small_runs import assert_same_weights, weights

from checkpoints import store


@pytest.fixture
def run(small, object_store, tmp_path, capfd):
    """Start a run of one epoch in the folder "out": run(*options) -> (exit status, stdout, stderr)."""

    def start(*words, out="out"):
        status = small(
            "--epochs=1", "--output-dir=" + str(tmp_path / out), "--mirror=" + object_store.url("run"), *words
        )
        return (status, *capfd.readouterr())

    return start


def manifest_of(object_store):
    return json.loads(object_store.read("run/mirror.json"))


@pytest.mark.parametrize(
    "words, text",
    [
        (["--mirror=s3://no-such-bucket/run"], "--mirror s3://no-such-bucket/run cannot be used: The specified bucket"),
        (["--mirror=ftp://there/run"], "--mirror ftp://there/run: no such kind of URL is known, but s3://"),
        (["--mirror=folder/run"], "--mirror folder/run is not the URL of a folder, as s3://BUCKET/FOLDER"),
        (["--mirror=s3://some-bucket/run", "--output-dir="], "needs --output-dir, whose checkpoints it uploads"),
        (["--mirror=https://there/run"], "--mirror https://there/run"),
    ],
)
def test_what_cannot_be_is_refused(run, object_store, tmp_path, words, text):
    status, _, err = run(*words)
    assert status == 2 and len(err.splitlines()) == 1 and text in err, err
    assert not (tmp_path / "out").exists() and not object_store.files()


def test_a_place_where_one_may_not_write_is_refused(run, object_store, tmp_path):
    object_store.refuse("PUT")
    status, _, err = run()
    assert status == 2 and "--mirror s3://some-bucket/run cannot be used: " in err and "Denied" in err, err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_and_an_evaluation_upload_nothing(run, object_store, tmp_path):
    status, out, err = run("--dry-run")
    assert status == 0 and not object_store.files(), err
    assert run()[0] == 0
    before = object_store.files()
    shutil.move(str(tmp_path / "out"), str(tmp_path / "moved"))
    status, out, err = run("--dry-run")
    assert status == 0 and "holds a checkpoint (epoch 1, step 0), which a run may resume" in out, err
    status, out, err = run("--eval", "--resume=" + str(tmp_path / "moved"))
    assert status == 0 and "--mirror has no effect: nothing is trained" in out, err
    assert object_store.files() == before and not (tmp_path / "out" / store.LATEST).exists()


def test_a_folder_with_another_run_than_the_mirror_is_refused(run, small, object_store, tmp_path):
    assert small("--epochs=1", "--seed=3", "--output-dir=" + str(tmp_path / "out")) == 0
    assert run(out="elsewhere")[0] == 0
    files, before = object_store.files(), weights(tmp_path / "out")
    status, _, err = run()
    assert status == 2 and "--mirror s3://some-bucket/run holds another run than --output-dir" in err, err
    assert object_store.files() == files and sorted(before) == sorted(weights(tmp_path / "out"))


@pytest.mark.parametrize("words", [["--existing-output=rename"], ["--existing-output=match", "--seed=5"]])
def test_a_new_run_sets_the_other_one_aside(run, object_store, tmp_path, words):
    assert run()[0] == 0
    before = object_store.files()
    status, out, err = run(*words)
    assert status == 0 and "held another run: its mirror.json is renamed to mirror.json.2" in out, err
    after = object_store.files()
    (aside,) = [name for name in after if name.startswith("run/mirror.json.")]
    assert after[aside] == before.pop("run/mirror.json") and before.items() <= after.items()
    assert manifest_of(object_store)["run"] != json.loads(after[aside])["run"]


def test_a_run_that_is_not_to_be_resumed_restores_nothing(run, object_store, tmp_path):
    assert run()[0] == 0
    run_id = manifest_of(object_store)["run"]
    status, out, err = run("--no-auto-resume", out="new")
    assert status == 0 and "restored" not in out and "nothing is left" not in out, err
    assert manifest_of(object_store)["run"] != run_id


def test_the_further_one_of_mirror_and_folder_is_resumed(run, object_store, tmp_path):
    assert run("--epochs=2")[0] == 0
    out = tmp_path / "out"
    shutil.copytree(str(out), str(tmp_path / "whole"))
    os.replace(str(out / store.PREVIOUS), str(out / store.LATEST))
    status, text, err = run("--epochs=2")
    assert status == 0 and "its checkpoint (epoch 2, step 0) was restored" in text, err
    assert "nothing is left to train" in text
    assert_same_weights(out, tmp_path / "whole")
    files = object_store.files()
    object_store.clear()  # as if the last upload had been lost
    for path, data in files.items():
        object_store.put(path, data)
    older = dict(manifest_of(object_store), epoch=0)
    older["files"]["checkpoint.pth"] = older["files"]["best.pth"]
    object_store.put("run/mirror.json", json.dumps(older).encode())
    status, text, err = run("--epochs=2")
    manifest = manifest_of(object_store)
    assert status == 0 and "restored" not in text and manifest["epoch"] == 1, err
    assert manifest["files"]["checkpoint.pth"]["bytes"] == os.path.getsize(str(out / store.LATEST))


def test_damaged_checkpoints_are_replaced_and_kept(run, object_store, tmp_path):
    assert run()[0] == 0
    out = tmp_path / "out"
    shutil.copytree(str(out), str(tmp_path / "whole"))
    for name in (store.LATEST, store.BEST):
        (out / name).unlink()
        (out / name).write_bytes(b"damaged")
    status, text, err = run()
    assert status == 0 and "was restored" in text, err
    assert_same_weights(out, tmp_path / "whole")
    kept = [name for name in os.listdir(str(out)) if ".damaged." in name]
    assert len(kept) == 2 and all((out / name).read_bytes() == b"damaged" for name in kept)


def test_nothing_of_the_user_is_overwritten(run, object_store, tmp_path):
    assert run(out="elsewhere")[0] == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("mine")
    status, _, err = run()
    assert status == 2 and "it holds no run, but a file config.yaml" in err, err
    assert os.listdir(str(tmp_path / "out")) == ["config.yaml"]


def test_a_file_that_is_damaged_there_ends_the_run_with_one_line(run, object_store, tmp_path):
    assert run(out="elsewhere")[0] == 0
    name = manifest_of(object_store)["files"]["checkpoint.pth"]["object"]
    object_store.put("run/" + name, b"damaged")
    status, _, err = run()
    assert status == 1 and len(err.splitlines()) == 1, err
    assert "failed: --mirror s3://some-bucket/run: %s there is damaged" % name in err
    assert not (tmp_path / "out" / store.LATEST).exists()


def test_uploads_that_fail_are_one_warning_and_the_status_at_the_end(run, object_store, tmp_path, monkeypatch):
    from results.mirrored import Mirrored

    def offer(self, *place):
        object_store.refuse("PUT")
        original(self, *place)

    original = Mirrored.offer
    monkeypatch.setattr(Mirrored, "offer", offer)
    status, out, err = run("--epochs=3", "--checkpoint-steps=1")
    assert status == 1 and "failed: --mirror s3://some-bucket/run is not up to date: " in err, err
    assert out.count("a checkpoint is not uploaded: ") == 1 and "Weights: " in out
    assert sorted(object_store.files()) == [] and (tmp_path / "out" / store.LATEST).exists()
    assert not [name for name in os.listdir(str(tmp_path / "out")) if name.endswith(".tmp")]
    object_store.refuse("")
    monkeypatch.undo()


def test_a_lost_upload_process_is_started_again(run, object_store, tmp_path, monkeypatch):
    from results.mirrored import Mirrored

    def offer(self, *place):
        if self.process._process is not None and place[1:] == (0, 0):
            self.process._process.kill()
            self.process._process.wait()
        original(self, *place)

    original = Mirrored.offer
    with monkeypatch.context() as patch:
        patch.setattr(Mirrored, "offer", offer)
        status, out, err = run("--epochs=2")
    assert status == 0, err
    assert manifest_of(object_store)["epoch"] == 1
