"""tools/split_data.py: folders of pictures become train/ and val/."""

import os

import numpy
import pytest
from folders import contents
from odd_pictures import encoded, pixels, write
from PIL import Image

from runtime.errors import UserError
from tools import split_data
from tools.split_data import split


@pytest.fixture
def photos(tmp_path):
    """Ten pictures of each of two classes, and one class with copies of the same picture."""
    source = numpy.random.RandomState(0)
    for name, count in (("cat", 10), ("a dog", 10), ("copies", 4)):
        folder = tmp_path / "photos" / name / "inner"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = source.randint(0, 256, (8, 8, 3)).astype("uint8")
            Image.fromarray(pixels).save(str(folder / ("%d.JPG" % number)))
        if name == "copies":
            for number in range(2, 8):
                (folder / ("again %d.JPG" % number)).write_bytes((folder / "0.JPG").read_bytes())
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("not an image")
    return str(tmp_path / "photos")


@pytest.fixture
def run(capsys):
    """Run the program: (exit status, stdout, stderr)."""

    def run(*words):
        status = split_data.main(list(words))
        return (status, *capsys.readouterr())

    return run


def test_every_image_is_in_one_part(photos, tmp_path, run):
    before = contents(photos)
    data = str(tmp_path / "data")
    status, out, err = run(photos, data, "--val-share=0.3")
    assert (status, err) == (0, "")
    assert "cat: 7 train, 3 val" in out and "a dog: 7 train, 3 val" in out
    assert contents(photos) == before
    train, val = contents(os.path.join(data, "train")), contents(os.path.join(data, "val"))
    assert sorted([*train, *val]) == sorted(name for name in before if not name.endswith(".txt"))
    assert all(before[name] == value for part in (train, val) for name, value in part.items())
    assert not set(train.values()) & set(val.values())  # copies are on one side
    assert not os.path.exists(data + ".partial")


def test_the_same_pictures_are_dealt_out_in_the_same_way(photos, tmp_path):
    split(photos, str(tmp_path / "first"), 0.2)
    split(photos, str(tmp_path / "second") + os.sep, 0.2, links=True)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    inner = tmp_path / "second" / "val" / "cat" / "inner"
    assert all(path.is_symlink() for path in inner.iterdir())


def test_a_failure_leaves_nothing(photos, tmp_path, run, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(split_data.shutil, "copyfile", full)
    status, _, err = run(photos, str(tmp_path / "data"))
    assert status == 1 and "No space left" in err
    assert sorted(os.listdir(str(tmp_path))) == ["photos"]


def test_what_cannot_be_split_is_refused(photos, tmp_path, run):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    inside = os.path.join(photos, "cat", "data")
    for target, says in ((str(tmp_path / "full"), "is not an empty folder"), (inside, "name a folder elsewhere")):
        status, _, err = run(photos, target)
        assert status == 2 and says in err and err.count("\n") == 1
    assert (tmp_path / "full" / "mine").read_text() == "kept" and not os.path.exists(inside)
    (tmp_path / "one" / "single").mkdir(parents=True)
    (tmp_path / "one" / "other").mkdir()
    with pytest.raises(UserError, match="class other has 0 different images"):
        split(str(tmp_path / "one"), str(tmp_path / "data"), 0.2)
    with pytest.raises(UserError, match="it takes two or more"):
        split(os.path.join(photos, "cat"), str(tmp_path / "data"), 0.2)
    with pytest.raises(UserError, match="is not a folder"):
        split(os.path.join(photos, "nothing"), str(tmp_path / "data"), 0.2)
    split(photos, str(tmp_path / "data"), 0.2)
    with pytest.raises(UserError, match="already"):
        split(str(tmp_path / "data"), str(tmp_path / "again"), 0.2)
    assert run(photos, str(tmp_path / "x"), "--val-share=2")[0] == 2
    assert run(photos)[0] == 2


def test_what_is_passed_over_is_counted(photos, tmp_path, run):
    for name in ("a.HEIC", "b.heic", "c.gif"):
        with open(os.path.join(photos, "cat", name), "wb") as file:
            file.write(encoded(pixels(seed=len(name)), "GIF"))
    for folder in (".thumbnails", os.path.join("cat", "@eaDir")):
        write(os.path.join(photos, folder), {"x.jpg": encoded(pixels(), "JPEG")})
    status, out, err = run(photos, str(tmp_path / "data"))
    assert (status, err) == (0, "")
    assert "photos: 4 files passed over: .gif 1, .heic 2, .txt 1; --extensions .gif .heic reads such images too" in out
    assert "photos: 2 hidden folders passed over: .thumbnails, cat/@eaDir; rename one" in out
    assert sorted(os.listdir(str(tmp_path / "data" / "train"))) == ["a dog", "cat", "copies"]


def test_other_extensions_are_taken_when_they_are_asked_for(photos, tmp_path, run):
    write(os.path.join(photos, "cat"), {"c.GIF": encoded(pixels(), "GIF"), "d.jfif": encoded(pixels(seed=1), "JPEG")})
    status, out, _ = run(photos, str(tmp_path / "data"), "--extensions", ".gif", ".jfif")
    assert status == 0 and "cat: 10 train, 2 val" in out and "train with --extensions .gif .jfif\n" in out
    status, _, err = run(photos, str(tmp_path / "x"), "--extensions", "gif")
    assert status == 2 and "'gif' is no extension, write .gif" in err


def test_photos_one_level_too_deep_are_told(photos, tmp_path, run):
    status, _, err = run(str(tmp_path), str(tmp_path / "data"))
    assert status == 2 and "%s holds a dog, cat, copies: name that folder" % photos in err
    (tmp_path / "empty" / "a").mkdir(parents=True)
    write(tmp_path / "empty" / "b", {"x.heic": b"x"})
    with pytest.raises(UserError, match=r"class a has 0 different images: .*; 1 file passed over: .heic 1"):
        split(str(tmp_path / "empty"), str(tmp_path / "data"), 0.2)
