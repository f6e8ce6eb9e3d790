"""What a data set is found to be: the folder of --data-path, or sources that are named one by one."""

import os

import pytest
from index_caches import touch

from pipeline import sources
from runtime.errors import UserError

BOTH = ("train", "val")


def found(root, parts=BOTH, **given):
    return {
        part: (one.form, [os.path.basename(path) for path in one.paths]) for part, one in find(root, parts, **given)
    }


def find(root, parts=BOTH, **given):
    return sorted(sources.find(str(root), parts, given, option="--data-path").items())


def fill(root, *names):
    for name in names:
        touch(root, name)
    return root


FORMS = {
    "folders": (["train/a/1.png", "val/a/1.png"], ("folder", ["train"]), ("folder", ["val"])),
    "lists": (["train.csv", "val.jsonl", "classes.txt"], ("list", ["train.csv"]), ("list", ["val.jsonl"])),
    "a list of a flat folder": (
        ["train.csv", "train/1.png", "val/a/1.png"],
        ("list", ["train.csv"]),
        ("folder", ["val"]),
    ),
    "tars": (["train.tar", "validation.tar"], ("archive", ["train.tar"]), ("archive", ["validation.tar"])),
    "shards": (
        ["train-000.tar", "train-001.tar", "val_0.tar", "notes.txt"],
        ("archive", ["train-000.tar", "train-001.tar"]),
        ("archive", ["val_0.tar"]),
    ),
    "shards of a hub": (
        ["imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-validation-00.tar"],
        ("archive", ["imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar"]),
        ("archive", ["imagenet1k-validation-00.tar"]),
    ),
    "shards that know their number": (
        ["train-00000-of-00002.tar", "train-00001-of-00002.tar", "val-00000-of-00001.tar"],
        ("archive", ["train-00000-of-00002.tar", "train-00001-of-00002.tar"]),
        ("archive", ["val-00000-of-00001.tar"]),
    ),
    "zips": (["train.zip", "val.zip"], ("archive", ["train.zip"]), ("archive", ["val.zip"])),
    "ImageNet's": (
        ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "val.txt"],
        ("archive", ["ILSVRC2012_img_train.tar"]),
        ("archive", ["ILSVRC2012_img_val.tar"]),
    ),
    "ImageNet's with the kit": (
        ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"],
        ("archive", ["ILSVRC2012_img_train.tar"]),
        ("archive", ["ILSVRC2012_img_val.tar"]),
    ),
    "forms of their own": (["train.zip", "val/a/1.png"], ("archive", ["train.zip"]), ("folder", ["val"])),
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_folder_is_what_it_holds(tmp_path, name):
    files, train, val = FORMS[name]
    fill(tmp_path, *files)
    assert found(tmp_path) == {"train": train, "val": val}
    assert found(tmp_path, ("val",)) == {"val": val}


FAULTS = {
    "two forms": (
        ["train/a/1.png", "train.csv", "val.csv"],
        "folder .*/train and as list .*/train.csv: name one of them",
    ),
    "two namings": (
        ["train.tar", "train-0.tar", "val.tar"],
        "twice, as archive .*train-0.tar and as archive .*train.tar",
    ),
    "a gap": (["train-00.tar", "train-02.tar", "val.tar"], r"/train-01.tar is missing: "),
    "an end": (["train-0-of-3.tar", "val.tar"], r"/train-1-of-3.tar is missing .like 1 more.: "),
    "no labels": (["train.tar", "ILSVRC2012_img_val.tar"], "does not tell the classes .* ILSVRC2012_devkit_t12.tar.gz"),
    "nothing": (["val.tar"], "has no folder train/, nor a list, archives"),
    "compressed": (["train.tar.gz", "val.tar"], "has no folder train/, .*compressed as train.tar.gz is, .* gunzip"),
    "one level down": (["x/train/a/1.png", "x/val/a/1.png"], "has no folder train/; .*/x has: name that folder"),
    "no classes": (["train/1.png", "val/a/1.png"], "train has no class folders"),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_what_contradicts_or_is_missing_is_named(tmp_path, name):
    files, message = FAULTS[name]
    with pytest.raises(UserError, match=message) as error:
        find(fill(tmp_path, *files))
    assert len(str(error.value).splitlines()) == 1


def test_sources_are_named_one_by_one(tmp_path):
    fill(tmp_path, "a-0.tar", "a-1.tar", "b.csv", "c/x/1.png", "train/x/1.png", "val/x/1.png")
    at = str(tmp_path) + "/"
    assert found("", train=at + "a-{0..1}.tar", val=at + "b.csv")["train"] == ("archive", ["a-0.tar", "a-1.tar"])
    assert found("", train=at + "a-*.tar", val=at + "c")["val"] == ("folder", ["c"])
    assert found("", train=at + "a-[1].tar", val=at + "{a-0,a-1}.tar")["train"] == ("archive", ["a-1.tar"])
    assert found(tmp_path, val=at + "b.csv") == {"train": ("folder", ["train"]), "val": ("list", ["b.csv"])}
    assert found(tmp_path, train=at + "b.csv")["val"] == ("folder", ["val"])  # another form that is there is no matter


@pytest.mark.parametrize(
    "text, message",
    [
        ("nowhere", "--train-data nowhere: no such file or folder"),
        ("nowhere-{0..3}.tar", "--train-data .*: nowhere-0.tar does not exist .like 3 more."),
        ("nowhere-*.tar", "--train-data .*: no such file or folder"),
        ("ftp://host/train.tar", "--train-data ftp://host/train.tar: no such kind of URL is known, but s3://"),
        ("s3://user:word@host/train.tar", "--train-data s3://...@host/train.tar: leave the password out"),
        ("simplecache::s3://b/train.tar", "no such kind of URL"),
        ("unknown://b/train.tar", "no such kind of URL"),
        ("HERE/a.rar", "a.rar: it takes a folder with class folders, a list"),
        ("HERE/{a,b}.csv", "a pattern takes archives alone"),
        ("x-{0..9999999}.tar", "over 1000000 names"),
        ("x-{0..9999}-{0..999}.tar", "over 1000000 names"),
        ("HERE/x.tar.gz", "x.tar.gz: it takes .* unpack it once, such as by gunzip"),
        ("HERE/shards", "HERE/shards has no class folders: its files are named by a pattern, 'HERE/shards/[*].tar'"),
        ("HERE/all", "HERE/all holds train/ and val/: pass it as --data-path"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, text, message):
    fill(tmp_path, "a.rar", "a.csv", "b.csv", "x.tar.gz", "shards/0.tar", "all/train/a/1.png", "all/val/a/1.png")
    text = text.replace("HERE", str(tmp_path))
    with pytest.raises(UserError, match=message.replace("HERE", str(tmp_path))):
        find("", ("train",), train=text)


@pytest.mark.parametrize(
    "root, message",
    [("nowhere", "--image-root nowhere: no such folder"), (".", "--image-root .* no part of the data is")],
)
def test_an_image_root_without_use_is_refused(tmp_path, root, message):
    with pytest.raises(UserError, match=message):
        sources.find(str(fill(tmp_path, "train/a/1.png", "val/a/1.png")), BOTH, {}, root)


def test_an_archive_is_no_data_path(tmp_path):
    with pytest.raises(UserError, match="--data-path .*train.tar is not a folder: name a part .* by --train-data"):
        find(touch(tmp_path, "train.tar"))


def test_a_name_with_the_signs_of_a_pattern_is_that_of_a_file(tmp_path):
    fill(tmp_path, "a[1].tar", "b{1,2}.tar")
    for name in ("a[1].tar", "b{1,2}.tar"):
        assert found("", ("train",), train=str(tmp_path / name))["train"] == ("archive", [name])
