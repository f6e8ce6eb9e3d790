"""tools/split_data.py: lists are written instead of copies, and read in place of folders."""

import collections
import csv
import os
import random

import pytest
from folders import contents
from odd_pictures import encoded, odd_names, pixels, write

from pipeline import splitting
from pipeline.lists import read_class_names, read_rows
from runtime.errors import UserError
from tools import split_data


@pytest.fixture
def run(capsys):
    """Run the program: (exit status, stdout, stderr)."""

    def run(*words):
        status = split_data.main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return run


def picture(seed):
    return encoded(pixels(8, 8, seed), "PNG")


@pytest.fixture
def photos(tmp_path):
    """Three classes of pictures in folders of folders, with copies."""
    for number, (name, count) in enumerate((("cat", 10), ("a dog", 7), ("0", 4))):
        files = {"%02d.png" % place: picture(100 * number + place) for place in range(count)}
        write(tmp_path / "photos" / name / "in, side", files)
        write(tmp_path / "photos" / name, {"copy.png": files["02.png"], "notes.txt": b"none"})
    return tmp_path / "photos"


def listed(data, part):
    """Return [(real path of the image, label)] of a list."""
    path = os.path.join(str(data), part + ".csv")
    return [(os.path.realpath(os.path.join(str(data), row.path)), row.label) for row in read_rows(path)]


def copied(data, part, photos):
    """Return the same of the images of a folder, in the order of ImageFolder."""
    folder = os.path.join(str(data), part)
    images = split_data.list_photos(folder)
    inner = [(os.path.relpath(path, folder), images.classes[target]) for path, target in images]
    return [(os.path.join(str(photos), path), label) for path, label in inner]


def test_the_lists_hold_what_the_copies_do_in_the_same_order(photos, tmp_path, run):
    before = contents(photos)
    assert run(photos, tmp_path / "copies", "--val-share=0.3")[0] == 0
    status, out, err = run(photos, tmp_path / "lists", "--val-share=0.3", "--list")
    assert (status, err) == (0, "") and "a dog: 6 train, 2 val" in out
    assert sorted(os.listdir(str(tmp_path / "lists"))) == ["classes.txt", "train.csv", "val.csv"]
    for part in ("train", "val"):
        assert listed(tmp_path / "lists", part) == copied(tmp_path / "copies", part, photos)
    assert read_class_names(str(tmp_path / "lists" / "val.csv")) == ["0", "a dog", "cat"]
    assert contents(photos) == before
    rows = (tmp_path / "lists" / "train.csv").read_text().splitlines()
    assert rows[0] == "path,label" and any(row.startswith('"../photos/cat/in, side/') for row in rows)


def test_a_list_that_is_split_gives_what_its_folder_does(photos, tmp_path, run):
    names = sorted(name for name in contents(photos) if name.endswith(".png"))
    labels = [name.split(os.sep)[0] for name in names]
    path = tmp_path / "elsewhere" / "all.csv"
    write(path.parent, {"all.csv": b"", "classes.txt": b"cat\nnone\n0\na dog\n"})
    with open(str(path), "w", newline="") as file:
        rows = [
            ("../photos/" + name if label == "cat" else str(photos / name), label) for name, label in zip(names, labels)
        ]
        csv.writer(file).writerows([("path", "label"), *rows])
    assert run(photos, tmp_path / "a", "--list")[0] == 0
    status, out, err = run(path, tmp_path / "b", "--list")
    assert (status, err) == (0, "") and "none" not in out
    assert read_class_names(str(tmp_path / "b" / "val.csv")) == ["cat", "none", "0", "a dog"]
    for part in ("train", "val"):
        assert sorted(listed(tmp_path / "a", part)) == sorted(listed(tmp_path / "b", part))


def test_odd_names_survive(tmp_path, run):
    odd = [name + ".png" for name in odd_names()] + ["a,b.png", "a\rb.png", '".png', " .png"]
    for number, name in enumerate(["cat, dog", "\u2028 \udcff", '"', "#"]):
        write(tmp_path / "photos" / name, {file: picture(100 * number + place) for place, file in enumerate(odd)})
    status, _, err = run(tmp_path / "photos", tmp_path / "data", "--list")
    assert (status, err) == (0, "")
    found = listed(tmp_path / "data", "train") + listed(tmp_path / "data", "val")
    assert sorted(path for path, _ in found) == sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(str(tmp_path / "photos")) for name in names
    )
    assert all(path.split(os.sep)[-2] == label for path, label in found)
    names = read_class_names(str(tmp_path / "data" / "val.csv"))
    assert names == sorted({label for _, label in found})


def test_the_paths_hold_where_links_lead_elsewhere(photos, tmp_path, run, monkeypatch):
    far = tmp_path / "far" / "away"
    far.mkdir(parents=True)
    (tmp_path / "to_far").symlink_to(far)
    (tmp_path / "far" / "to_photos").symlink_to(photos)
    (photos / "cat" / "link.png").symlink_to(write(tmp_path / "store", {"blob": picture(7777)}) + "/blob")
    monkeypatch.chdir(str(tmp_path / "far"))
    assert run("to_photos", "../to_far/data", "--list")[0] == 0
    rows = [row for part in ("train", "val") for row in read_rows(str(far / "data" / (part + ".csv")))]
    assert len(rows) == 25 and all(os.path.isfile(str(tmp_path / "to_far" / "data" / row.path)) for row in rows)
    assert "../../../photos/cat/link.png" in [row.path for row in rows]


@pytest.mark.parametrize("name", ["new\nline", " blank", "blank\t"])
def test_a_class_that_is_no_line_of_classes_txt_is_refused(photos, tmp_path, run, name):
    write(photos / name, {"a.png": picture(1000), "b.png": picture(1001)})
    status, _, err = run(photos, tmp_path / "data", "--list")
    assert status == 2 and "cannot stand in classes.txt: rename it" in err and err.count("\n") == 1
    assert sorted(os.listdir(str(tmp_path))) == ["photos"]


def write_list(tmp_path, rows):
    """Write all.csv of [(class, group)] and a picture for each; return its path."""
    lines = ["label,patient,path"]
    for number, (label, group) in enumerate(rows):
        name = "%d.png" % number
        write(tmp_path / "images", {name: picture(number)})
        lines.append("%s,%s,images/%s" % (label, group, name))
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "all.csv"


def groups_in(data, path):
    """Return [set of groups, Counter of labels] of the two lists in `data`."""
    folder = os.path.dirname(str(path))
    group_of = {os.path.realpath(os.path.join(folder, row.path)): row.group for row in read_rows(str(path), "patient")}
    parts = [listed(data, part) for part in ("train", "val")]
    return [({group_of[image] for image, _ in rows}, collections.Counter(label for _, label in rows)) for rows in parts]


def test_a_group_is_in_one_part(tmp_path, run):
    source = random.Random(1)
    rows = [(source.choice(["cat", "dog", "owl"]), "P %d" % (number % 23)) for number in range(150)]
    path = write_list(tmp_path, rows + [("rare", "P 1"), ("rare", "P 2")])
    status, out, err = run(path, tmp_path / "data", "--list", "--group-column=patient", "--val-share=0.3")
    assert (status, err) == (0, "") and "rare: 1 train, 1 val" in out
    (train, in_train), (val, in_val) = groups_in(tmp_path / "data", path)
    assert not train & val and len(train | val) == 23
    for name in ("cat", "dog", "owl"):
        assert 0.2 < in_val[name] / (in_val[name] + in_train[name]) < 0.4
    assert run(path, tmp_path / "again", "--list", "--group_column", "patient", "--val-share=0.3")[0] == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "data")
    path.write_text("\n".join([path.read_text().splitlines()[0], *reversed(path.read_text().splitlines()[1:])]))
    assert run(path, tmp_path / "reversed", "--list", "--group-column=patient", "--val-share=0.3")[0] == 0
    assert sorted(listed(tmp_path / "reversed", "val")) == sorted(listed(tmp_path / "data", "val"))


def test_groups_that_share_an_image_are_one(tmp_path, run):
    path = write_list(tmp_path, [("cat" if number % 2 else "dog", "P%d" % (number // 4)) for number in range(80)])
    for number in (0, 4, 8, 12):  # of P0 to P3
        (tmp_path / "images" / ("%d.png" % number)).write_bytes(picture(4000))
    assert run(path, tmp_path / "data", "--list", "--group-column=patient", "--val-share=0.5")[0] == 0
    (train, _), (val, _) = groups_in(tmp_path / "data", path)
    assert not train & val and ({"P0", "P1", "P2", "P3"} <= train or {"P0", "P1", "P2", "P3"} <= val)


def test_a_class_is_in_both_parts_wherever_whole_groups_allow_it():
    """Chains of classes of two groups each, of which the first choice is seldom right."""
    for seed in range(20):
        source = random.Random(seed)
        groups = ["%d of %d" % (number, seed) for number in range(30)]
        pairs = {"c%d" % number: groups[number : number + 2] for number in range(29)}
        paths_of = {name: [name + group for group in of_class] for name, of_class in pairs.items()}
        group_of = {name + group: group for name, of_class in pairs.items() for group in of_class}
        parts = splitting._by_group(paths_of, group_of, source.random() * 0.9)
        assert all(len(train) == len(val) == 1 for train, val in parts.values())


def test_a_class_that_cannot_be_in_both_parts_is_named(tmp_path, run):
    path = write_list(tmp_path, [("cat", "A"), ("cat", "B"), ("dog", "A"), ("dog", " A ")])
    status, _, err = run(path, tmp_path / "data", "--list", "--group-column=patient")
    assert status == 2 and "class dog has 1 group: it takes two or more" in err
    path = write_list(tmp_path, [("cat", "A"), ("cat", "B"), ("dog", "B"), ("dog", "C"), ("owl", "C"), ("owl", "A")])
    status, _, err = run(path, tmp_path / "data", "--list", "--group-column=patient")
    assert status == 2 and ": no split by whole groups was found" in err and err.count("\n") == 1
    assert sorted(os.listdir(str(tmp_path))) == ["all.csv", "images"]


def test_a_plain_list_is_copied(tmp_path, run):
    path = write_list(tmp_path, [("cat" if number % 2 else "dog", "P%d" % (number // 4)) for number in range(20)])
    assert run(path, tmp_path / "lists", "--list", "--group-column=patient")[0] == 0
    assert run(path, tmp_path / "data", "--group-column=patient")[0] == 0
    assert run(path, tmp_path / "links", "--group-column=patient", "--link")[0] == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "links")
    assert len(contents(tmp_path / "data")) == 20
    for part in ("train", "val"):
        names = [
            os.path.join(part, label, os.path.basename(image)) for image, label in listed(tmp_path / "lists", part)
        ]
        assert sorted(names) == sorted(name for name in contents(tmp_path / "data") if name.startswith(part))


@pytest.mark.parametrize(
    "rows, says",
    [
        (["a/1.png,x/y", "b/2.png,x/y"], "class x/y cannot be the name of a folder of images: pass --list"),
        (["a/1.png,.x", "b/2.png,.x"], "class .x cannot be the name of a folder"),
        (["a/1.png,cat", "b/1.png,cat"], "a/1.png and .*b/1.png have the same name in class cat: pass --list"),
        (["a/1.png,cat", "a/3.gif,cat"], "a/3.gif has not the extension of an image: pass --list"),
        (["a/1.png,2", "b/2.png,2"], "the classes would have other numbers than in the list: pass --list"),
    ],
)
def test_a_list_that_copies_would_change_is_refused(tmp_path, run, rows, says):
    files = {"1.png": picture(1), "2.png": picture(2), "3.gif": picture(3)}
    write(tmp_path / "a", files)
    write(tmp_path / "b", {name: content + b"\n" for name, content in files.items()})
    (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
    assert run(tmp_path / "all.csv", tmp_path / "lists", "--list")[0] == 0
    with pytest.raises(UserError, match=says):
        split_data.split(str(tmp_path / "all.csv"), str(tmp_path / "data"), 0.2)
    assert not os.path.exists(str(tmp_path / "data"))


def test_what_cannot_be_listed_is_refused(photos, tmp_path, run):
    write(tmp_path, {"a.csv": b"path,label\nphotos/cat/copy.png,cat\nphotos/cat/copy.png,dog\n"})
    write(tmp_path, {"b.csv": b"path,label\nphotos/cat/none.png,cat\nphotos/cat/copy.png,cat\n"})
    write(tmp_path, {"c.csv": b"path,label\nphotos/cat/copy.png,cat\nphotos/cat/copy.png,cat\n"})
    data = tmp_path / "data"
    for words, says in (
        ([photos, data, "--list", "--link"], "--link: --list copies no images"),
        ([photos, data, "--list", "--group-column=patient"], "--group-column patient: %s is no list" % photos),
        ([photos, photos / "cat" / "data", "--list"], "which is left as it is: name a folder elsewhere"),
        (
            [tmp_path / "a.csv", data, "--list"],
            "a.csv line 3: line 2 has another label or group for photos/cat/copy.png",
        ),
        ([tmp_path / "b.csv", data, "--list"], "photos/cat/none.png cannot be read: No such file"),
        ([tmp_path / "c.csv", data, "--list"], "class cat has 1 different images: it takes two or more"),
        (
            [tmp_path / "a.csv", data, "--list", "--extensions", ".gif"],
            "--extensions: %s names each" % (tmp_path / "a.csv"),
        ),
        ([tmp_path / "none.csv", data, "--list"], "none.csv cannot be read: No such file"),
        ([tmp_path / "a.pdf", data, "--list"], "a.pdf is not a folder, nor a list (.csv .tsv .jsonl .txt)"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, "") and says in err and err.count("\n") == 1, err
        assert not os.path.exists(str(data)) and not os.path.exists(str(data) + ".partial")
