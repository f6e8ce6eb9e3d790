"""tools/check_data.py: what is wrong with a data set is found, named, and changed by nobody."""

import itertools
import json
import os
import shutil

import numpy
import pytest
from folders import everything_below
from loaders import load
from odd_pictures import decodable, encoded, odd_names, pixels, strips, undecodable, write
from PIL import Image

from runtime.errors import UserError
from tools import check_data


def write_set(root, train=(("a", 3), ("b", 2)), val=(("a", 1), ("b", 2)), side=40):
    """A data set in which no file is like another."""
    seed = 0
    for part, classes in (("train", train), ("val", val)):
        for name, count in classes:
            files = {}
            for number in range(count):
                seed += 1
                files["%d.png" % number] = encoded(pixels(side, side + number, seed), "PNG")
            write(os.path.join(str(root), part, name), files)
    return str(root)


@pytest.fixture
def check(capsys, tmp_path):
    """check(root, words...) -> (exit status, findings, stdout, stderr)."""

    def run(root, *words):
        path = str(tmp_path / "findings.json")
        status = check_data.main([str(root), "--num-workers=0", "--json=" + path] + list(words))
        captured = capsys.readouterr()
        findings = None
        if os.path.exists(path):
            with open(path) as file:
                findings = json.load(file)
        return status, findings, captured.out, captured.err

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_set_that_is_fit(tmp_path, check, workers):
    root = write_set(tmp_path / "data")
    before = everything_below(root)
    status, findings, said, errors = check(root, "--num-workers=" + workers, "--input-size=41")
    assert (status, errors) == (0, "") and said.endswith("Fit for training\n")
    assert everything_below(root) == before
    train, val = findings["train"], findings["val"]
    assert (train["images"], val["images"], findings["harmful"]) == (5, 3, [])
    assert train["smallest_classes"] == [["b", 2], ["a", 3]] and train["largest_classes"] == [["a", 3], ["b", 2]]
    assert train["shorter_side"] == {"min": 40, "median": 40, "max": 40}
    assert train["longer_side"] == {"min": 40, "median": 41, "max": 42}
    assert train["smaller_than_input"] == 5 and train["modes"] == {"RGB": 5}
    assert "below   41 pixels 5 images" in said


def test_numbers_in_a_list_of_val_are_those_of_the_folders_of_train(tmp_path, check):
    root = write_set(tmp_path / "data")
    os.rename(os.path.join(root, "val"), os.path.join(root, "pictures"))
    with open(os.path.join(root, "val.txt"), "w") as file:
        file.write("pictures/a/0.png 0\npictures/b/0.png 1\npictures/b/1.png 1\n")
    status, findings, said, errors = check(root)
    assert (status, errors) == (0, "") and said.endswith("Fit for training\n")
    assert findings["val"]["largest_classes"] == [["b", 2], ["a", 1]]


def test_broken_files_are_those_of_a_training(tmp_path, check):
    good, bad = decodable(), undecodable()
    root = write_set(tmp_path / "data")
    write(os.path.join(root, "train", "a"), dict(good, **bad))
    for name in ("nowhere.png", "loop.png"):
        os.symlink(name if name == "loop.png" else "gone", os.path.join(root, "train", "a", name))
    if hasattr(os, "mkfifo"):
        os.mkfifo(os.path.join(root, "train", "a", "pipe.png"))
    status, findings, said, _ = check(root, "--num-workers=2")
    broken = {one["file"]: one["reason"] for one in findings["train"]["broken"]["files"]}
    unread = set(bad) | {"nowhere.png", "loop.png"} | ({"pipe.png"} if hasattr(os, "mkfifo") else set())
    assert set(broken) == {"a/" + name for name in unread} and status == 1
    assert broken["a/pipe.png"] == "not a regular file" and "PostScript" in broken["a/postscript.jpg"]
    assert findings["train"]["broken"]["count"] == len(broken)
    assert "This would harm a training: %d broken image(s) in train;" % len(broken) in said
    assert findings["train"]["modes"]["CMYK"] == 1 and findings["train"]["modes"]["LA"] == 1


@pytest.mark.parametrize("part, size, count", [("val", 224, 2), ("train", 224, 0), ("train", 32, 2), ("val", 32, 2)])
def test_a_picture_too_long_to_resize_is_broken_where_it_is_resized(tmp_path, check, monkeypatch, part, size, count):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # twice as many are decoded
    root = write_set(tmp_path / "data")
    write(os.path.join(root, part, "a"), strips())
    status, findings, _, _ = check(root, "--input-size=%d" % size)
    assert (findings[part]["broken"]["count"], status) == (count, int(count > 0))


def test_equal_files(tmp_path, check):
    root = write_set(tmp_path / "data")
    for target in ("val/b/copy.png", "val/b/again.png", "train/b/copy.png"):
        shutil.copy(os.path.join(root, "train/a/0.png"), os.path.join(root, target))
    shutil.copy(os.path.join(root, "train/a/1.png"), os.path.join(root, "train/b/same.png"))
    status, findings, said, _ = check(root)
    assert findings["leaks"] == {
        "count": 1,
        "groups": [["train/a/0.png", "train/b/copy.png", "val/b/again.png", "val/b/copy.png"]],
    }
    assert findings["contradictions"]["groups"] == [*findings["leaks"]["groups"], ["train/a/1.png", "train/b/same.png"]]
    assert status == 1 and "1 image(s) in both train and val; 2 image(s) in two classes" in said
    for target in ("val/b/copy.png", "val/b/again.png", "train/b/copy.png", "train/b/same.png"):
        os.unlink(os.path.join(root, target))
    shutil.copy(os.path.join(root, "train/a/1.png"), os.path.join(root, "train/a/same.png"))
    status, findings, said, _ = check(root)
    assert findings["duplicates"] == {"count": 1, "groups": [["train/a/1.png", "train/a/same.png"]]}
    assert status == 0 and "duplicate images within a split: 1; remove the copies" in said  # told, but no harm


@pytest.mark.parametrize("part", ["train", "val"])
def test_one_image_in_two_classes_is_harmful(tmp_path, check, part):
    root = write_set(tmp_path / "data")
    shutil.copy(os.path.join(root, part, "a", "0.png"), os.path.join(root, part, "b", "copy.png"))
    status, findings, said, _ = check(root)
    assert findings["contradictions"] == {"count": 1, "groups": [["%s/a/0.png" % part, "%s/b/copy.png" % part]]}
    assert status == 1 and findings["duplicates"]["count"] == 0
    assert "the same image in two classes: 1; keep it in the right one alone" in said
    assert said.endswith("This would harm a training: 1 image(s) in two classes\n")


def test_a_copy_in_another_format_is_found(tmp_path, check):
    root = write_set(tmp_path / "data")
    with Image.open(os.path.join(root, "train", "a", "0.png")) as image:
        image.save(os.path.join(root, "train", "b", "copy.bmp"))
        image.rotate(90, expand=True).save(os.path.join(root, "val", "b", "turned.bmp"))
    _, findings, _, _ = check(root)
    assert findings["contradictions"] == {"count": 1, "groups": [["train/a/0.png", "train/b/copy.bmp"]]}
    assert findings["leaks"]["count"] == findings["duplicates"]["count"] == 0


def test_equal_broken_files_are_told_once(tmp_path, check):
    root = write_set(tmp_path / "data")
    for part in ("train", "val"):
        write(os.path.join(root, part, "a"), {"x.png": b"none", "y.png": b"none"})
    findings = check(root)[1]
    assert findings["leaks"]["count"] == findings["duplicates"]["count"] == 0


def test_classes_that_do_not_match(tmp_path, check):
    root = write_set(tmp_path / "data", train=(("a", 3), ("b", 2), ("c", 1)), val=(("a", 1), ("b", 1), ("d", 1)))
    os.makedirs(os.path.join(root, "train", "empty"))
    os.makedirs(os.path.join(root, "val", "empty"))
    status, findings, said, _ = check(root)
    assert status == 1 and (findings["only_in_train"], findings["only_in_val"]) == (["c"], ["d"])
    assert findings["train"]["empty_classes"] == findings["val"]["empty_classes"] == ["empty"]
    assert said.splitlines()[-1].count(";") == 3
    with pytest.raises(UserError):  # and a training says so, too
        load(root)


def test_what_is_no_image_is_told_and_does_no_harm(tmp_path, check):
    root = write_set(tmp_path / "data")
    write(os.path.join(root, "train"), {"README": b"x"})
    write(os.path.join(root, "train", "a", "deep er"), {"notes.txt": b"x", "more.png": encoded(pixels(), "PNG")})
    status, findings, said, _ = check(root)
    assert status == 0 and "2 files passed over: .txt 1, no extension 1\n" in said
    assert findings["train"]["no_images"] == {"count": 2, "files": ["README", "a/deep er/notes.txt"]}
    assert findings["train"]["images"] == 6


def test_pictures_of_other_extensions_are_counted_and_can_be_read(tmp_path, check):
    root = write_set(tmp_path / "data")
    write(os.path.join(root, "val", "a"), {"%d.GIF" % number: encoded(pixels(seed=70), "GIF") for number in range(2)})
    write(os.path.join(root, "val"), {"loose.png": encoded(pixels(seed=71), "PNG")})
    status, findings, said, _ = check(root)
    assert (status, findings["val"]["images"]) == (0, 3)
    assert "2 files passed over: .gif 2; --extensions .gif reads such images too\n" in said
    assert "1 image in no class passed over, beside the class folders: move images into one of them\n" in said
    status, findings, said, _ = check(root, "--extensions", ".gif", ".bin")
    assert (status, findings["val"]["images"]) == (0, 5) and "files passed over" not in said


@pytest.mark.parametrize("parts", [("train",), ("val",), ("train", "val")])
def test_a_hidden_folder_is_no_class_and_is_told(tmp_path, check, parts):
    root = write_set(tmp_path / "data")
    names = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails"]
    for part in parts:
        for name in names:
            folder = os.path.join(root, part, name)
            write(folder, {"0-checkpoint.png": encoded(pixels(seed=1), "PNG")})
            write(os.path.join(root, part, "a", name), {"0-checkpoint.png": encoded(pixels(seed=1), "PNG")})
    status, findings, said, _ = check(root)
    assert status == 0 and [findings[part]["classes"] for part in ("train", "val")] == [2, 2]
    assert (findings["train"]["images"], findings["val"]["images"]) == (5, 3)
    assert said.count("8 hidden folders passed over: .ipynb_checkpoints, .thumbnails, @eaDir, __MACOSX, a/") == len(
        parts
    )


def test_classes_one_level_too_deep_are_harmful(tmp_path, check):
    root = write_set(tmp_path / "data")
    for part in ("train", "val"):
        os.renames(os.path.join(root, part), os.path.join(root, "new", part, "images"))
    deep = os.path.join(root, "new")
    status, findings, said, _ = check(deep)
    line = "%s/train has one class alone, images, which leaves nothing to learn; if its sub-folders (a, b) are the "
    assert status == 1 and line % deep in said and "move them from %s/train/images to" % deep in said
    assert "one class alone in train" in findings["harmful"]
    status, _, said, errors = check(root)
    assert (status, said) == (2, "") and "has no folder train/; %s has: name that folder" % deep in errors


def test_classes_too_deep_in_val_alone(tmp_path, check):
    root = write_set(tmp_path / "data")
    os.renames(os.path.join(root, "val"), os.path.join(root, "new", "images"))
    os.rename(os.path.join(root, "new"), os.path.join(root, "val"))
    status, _, said, _ = check(root)
    assert status == 1 and "%s/val has one class alone, images" % root in said
    with pytest.raises(
        UserError, match="'images' is not among the training classes; .*val has one class alone, images"
    ):
        load(root)


def test_classes_below_folders_of_the_same_names_are_told(tmp_path, check):
    root = str(tmp_path / "data")
    for seed, (part, year, name) in enumerate(itertools.product(("train", "val"), ("2020", "2021"), ("cat", "dog"))):
        write(os.path.join(root, part, year, name), {"x.png": encoded(pixels(seed=seed), "PNG")})
    status, _, said, _ = check(root)
    assert status == 0 and said.count("in sub-folders of its classes (2020, 2021), and each has cat, dog") == 2
    os.rename(os.path.join(root, "train", "2020", "cat", "x.png"), os.path.join(root, "train", "2020", "x.png"))
    assert check(root)[2].count("in sub-folders of its classes") == 1


def test_images_of_more_than_8_bits_that_lose_their_contents(tmp_path, check):
    root, noise = write_set(tmp_path / "data"), numpy.random.RandomState(0)
    grey = numpy.arange(256).reshape(16, 16)
    arrays = {
        "x_ray.png": noise.randint(2000, 60000, (16, 16)).astype("uint16"),
        "x_ray_too.png": noise.randint(2000, 60000, (16, 16)).astype("uint16"),
        "depth.tif": noise.randint(0, 4000, (16, 16)).astype("uint16"),
        "whole.tif": noise.randint(-5, 100, (16, 16)).astype("int32"),
        "unit.tif": noise.rand(16, 16).astype("float32"),
        "heat.tif": (1000 * noise.rand(16, 16)).astype("float32"),
        "nan.tif": numpy.full((16, 16), numpy.nan, "float32"),
    }
    fine = {
        "fits.png": grey.astype("uint16"),
        "fits.tif": grey.T.astype("float32"),
        "zero.tif": 0 * grey.astype("int32"),
    }
    for name, values in {**arrays, **fine}.items():
        Image.fromarray(values).save(os.path.join(root, "train", "a", name))
    status, findings, said, _ = check(root)
    assert status == 1 and set(findings["train"]["clipped"]["files"]) == {"a/" + name for name in arrays}
    assert findings["duplicates"]["count"] == 0  # though two of them are equally white
    assert "images that decode to white or black: 7; convert them to 8 bits first" in said
    assert findings["harmful"] == ["7 image(s) that decode to white or black in train"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words, is_told", [((), True), (("--exif-transpose",), False)])
def test_exif_orientations_that_are_ignored_are_counted(tmp_path, check, words, is_told):
    root = write_set(tmp_path / "data")
    for name in ("rotated.jpg", "cut_exif.jpg", "wild_exif.jpg"):
        write(os.path.join(root, "val", "b"), {name: decodable()[name]})
    status, findings, said, _ = check(root, *words)
    rotated = findings["val"]["rotated"]["files"]
    assert status == 0 and "b/rotated.jpg" in rotated and "b/wild_exif.jpg" not in rotated
    line = "images with an EXIF orientation that is ignored: %d; --exif-transpose obeys it" % len(rotated)
    assert (line in said) == is_told


def test_odd_names_are_just_names(tmp_path, check):
    root = write_set(tmp_path / "data")
    for number, name in enumerate(odd_names()):
        write(os.path.join(root, "train", "a"), {name + ".png": encoded(pixels(seed=90 + number), "PNG")})
        write(os.path.join(root, "train", "b"), {name + ".jpg": b"none %d" % number})
    status, findings, said, _ = check(root)
    assert status == 1 and findings["train"]["broken"]["count"] == len(odd_names())
    assert findings["train"]["images"] == 5 + 2 * len(odd_names())
    assert {one["file"] for one in findings["train"]["broken"]["files"]} == {"b/%s.jpg" % n for n in odd_names()}
    assert all(line.isprintable() for line in said.splitlines())


def test_many_files_are_counted_and_the_first_are_named(tmp_path, check):
    root = write_set(tmp_path / "data")
    write(os.path.join(root, "val", "a"), {"%04d.png" % number: b"x" for number in range(1005)})
    _, findings, said, _ = check(root)
    assert findings["val"]["broken"]["count"] == 1005 and len(findings["val"]["broken"]["files"]) == 1000
    assert "broken: 1005" in said and "and 995 more" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path, check):
    root = write_set(tmp_path / "data")
    os.chmod(os.path.join(root, "train/a/0.png"), 0)
    os.chmod(os.path.join(root, "val/b"), 0)
    status, findings, _, _ = check(root)
    os.chmod(os.path.join(root, "val/b"), 0o700)
    assert status == 1
    assert findings["train"]["broken"]["files"] == [{"file": "a/0.png", "reason": "Permission denied"}]
    assert list(findings["val"]["closed_folders"]) == ["b"]


def test_a_class_that_leads_back_is_told_beside_the_rest(tmp_path, check):
    root = write_set(tmp_path / "data")
    os.symlink(root, os.path.join(root, "train", "b", "back"))
    status, findings, said, _ = check(root)
    assert status == 1 and "is a link back to" in findings["train"]["closed_folders"]["b"]
    assert findings["train"]["images"] == 3 and findings["only_in_val"] == [] and "cannot be listed: 1" in said


def test_wrong_use(tmp_path, check):
    root = write_set(tmp_path / "data")
    (tmp_path / "half" / "train" / "a").mkdir(parents=True)
    (tmp_path / "flat" / "train").mkdir(parents=True)
    (tmp_path / "flat" / "val").mkdir()
    for words, message in (
        (["nowhere"], "nowhere: no such folder"),
        ([tmp_path / "half"], "has no folder val/"),
        ([tmp_path / "flat"], "has no class folders"),
        ([root, "--num-workers=-1"], "--num-workers: must be at least 0"),
        ([root, "--input-size=0"], "--input-size: must be at least 1"),
        ([root, "--json=/nowhere/x.json"], "its folder does not exist"),
        ([root, "--json=" + os.path.join(root, "val", "a", "x.json")], "lies among the images"),
    ):
        status, _, said, errors = check(*words)
        assert (status, said) == (2, "") and message in errors and len(errors.splitlines()) == 1
    assert not os.path.exists(os.path.join(root, "val", "a", "x.json"))
