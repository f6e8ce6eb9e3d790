"""Runs on archives, lists and patterns: what they say of their images, skip, record and resume."""

import os
import tarfile

import pytest
import yaml
from containers import CONTAINERS, write_list, write_shards, write_tar, write_zip
from image_folders import write_images
from small_runs import assert_same_weights, die_in, log_of

import engine
import main
from checkpoints import loading, store
from pipeline.readers import archives
from results.reader import RunFolder
from training import build

PART_NAMES = ("train", "val")


@pytest.fixture
def data(tmp_path):
    return write_images(str(tmp_path / "images"), train=6, val=3)


@pytest.fixture
def tars(data, tmp_path):
    """The options of a run on tars."""
    made = str(tmp_path / "tars")
    CONTAINERS["tar"](data, made)
    return ["--data-path=" + made]


def damage(path, name):
    """Replace the contents of a member by as many zeros."""
    with tarfile.open(path) as archive:
        member = archive.getmember(name)
    with open(path, "r+b") as file:
        file.seek(member.offset_data)
        file.write(bytes(member.size))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_member_is_named_or_skipped_and_counted(small, tars, tmp_path, capsys, workers):
    path = str(tmp_path / "tars" / "train.tar")
    damage(path, "cat/03.png")
    words = [*tars, "--num-workers=%d" % workers, "--epochs=1"]
    assert small(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    text = "main.py: error: unreadable image: %s:cat/03.png (no known image format); repair or replace it, or pass "
    assert lines == [text % path + "--skip-bad-images"]
    assert small(*words, "--skip-bad-images", "--output-dir=%s" % (tmp_path / "out")) == 0
    assert [row["train_images_skipped"] for row in log_of(tmp_path / "out")] == [1]


def test_a_damaged_member_of_the_validation_images_is_counted(small, tars, tmp_path, capsys):
    path = str(tmp_path / "tars" / "val.tar")
    damage(path, "dog/00.png")
    assert small(*tars, "--epochs=1") == 2
    assert "unreadable image: %s:dog/00.png (" % path in capsys.readouterr().err
    assert small(*tars, "--epochs=1", "--skip-bad-images", "--output-dir=%s" % (tmp_path / "out")) == 0
    with open(str(tmp_path / "out" / "train_0.log")) as file:
        assert "skipped 1 unreadable images" in file.read()


def poison(monkeypatch):
    """Have the loss of the second step be no number."""
    mix, mixed = build.Run.mix, []

    def poisoned(run, images, targets):
        mixed.append(1)
        return mix(run, images * float("nan") if len(mixed) == 2 else images, targets)

    monkeypatch.setattr(engine.Run, "mix", poisoned)


def test_a_loss_that_is_not_finite_names_the_members_of_its_batch(small, data, tmp_path, monkeypatch):
    made = str(tmp_path / "made")
    CONTAINERS["shards"](data, made)
    found = {}
    listings = []
    list_members = archives.list_members
    monkeypatch.setattr(archives, "list_members", lambda path, **to: listings.append(path) or list_members(path, **to))
    for name, path in (("folder", data), ("shards", made)):
        poison(monkeypatch)
        out = tmp_path / name
        assert small("--data-path=" + path, "--output-dir=%s" % out, "--print-freq=1") == 1
        facts = loading.load(str(out / store.NOT_FINITE))["not_finite"]
        found[name] = facts["files"][0]
    assert len(found["folder"]) == 4
    for file, member in zip(found["folder"], found["shards"]):
        shard, inner = member.split(":")
        with tarfile.open(shard) as archive, open(file, "rb") as opened:
            assert archive.extractfile(inner).read() == opened.read()
        assert os.path.dirname(shard) == made
    assert len(listings) == len(set(listings)) <= 3  # a shard is listed once for all of its images


def sources_of(data, made):
    """{name: the words of a run on lists, archives and patterns beside the current folder}."""
    os.makedirs(made, exist_ok=True)
    train, val = (os.path.join(data, name) for name in PART_NAMES)
    write_shards(train, os.path.join(made, "some-%02d.tar"), 2, ".json")
    write_zip(val, os.path.join(made, "other.zip"))
    write_tar(val, os.path.join(made, "other.tar"))
    for part, name in ((train, "a.csv"), (val, "b.jsonl")):
        write_list(part, os.path.join(made, name), os.path.dirname(part))
    return {
        "pattern": ["--data-path=", "--train-data=some-{00..01}.tar", "--val-data=other.zip"],
        "glob": ["--data-path=", "--train-data=some-*.tar", "--val-data=other.tar"],
        "lists": ["--data-path=", "--train-data=a.csv", "--val-data=b.jsonl", "--image-root=" + os.path.relpath(data)],
    }


@pytest.mark.parametrize("name", ["pattern", "glob", "lists"])
def test_a_run_resumes_from_its_config_in_another_folder(small, data, tmp_path, capsys, monkeypatch, name):
    made = tmp_path / "made"
    made.mkdir()
    monkeypatch.chdir(str(made))
    words = sources_of(data, str(made))[name]
    out = str(tmp_path / "out")
    die_in(small, monkeypatch, 5, *words, "--output-dir=" + out)
    with open(os.path.join(out, "config.yaml")) as file:
        config = yaml.safe_load(file)
    given = dict(word[2:].split("=") for word in words)
    assert config["data_path"] == ""
    for option in ("train-data", "val-data", "image-root"):
        if option in given:
            full = os.path.abspath(str(made / given[option]))
            assert config[option.replace("-", "_")] == full == RunFolder(out).options[option.replace("-", "_")]
    monkeypatch.chdir(str(tmp_path))
    capsys.readouterr()
    assert main.main(["--config", os.path.join(out, "config.yaml")]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    whole = str(tmp_path / "whole")
    assert small("--data-path=" + data, "--output-dir=" + whole) == 0
    assert_same_weights(out, whole)
    assert "from %s" % os.path.join(out, "checkpoint.pth") in printed


@pytest.mark.parametrize("name, text", [("pattern", "2 archives {}/some-00.tar to some-01.tar, archive {}/other.zip")])
def test_the_start_block_says_what_was_found(small, data, tmp_path, capsys, monkeypatch, name, text):
    made = str(tmp_path / "made")
    words = sources_of(data, made)[name]
    words = [word.replace("-data=", "-data=%s/" % made) for word in words]
    assert small(*words, "--epochs=1") == 0
    rows = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert ["data", text.format(made, made)] in rows and ["images", "12 training, 6 validation"] in rows


@pytest.mark.parametrize("name", ["csv", "shards with names", "zip"])
def test_a_dry_run_on_a_container_leaves_no_trace(small, data, tmp_path, capsys, name):
    made, out = str(tmp_path / "made"), tmp_path / "out"
    CONTAINERS[name](data, made)
    before = sorted(os.listdir(made))
    assert small("--data-path=" + made, "--output-dir=%s" % out, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "dry run" in printed and made in printed
    assert sorted(os.listdir(made)) == before and not out.exists()
