"""predict.py on lists, archives and patterns of archives: the images of each as if they were files."""

import csv
import io
import os
import pickle
import shutil
import sys
import tarfile
import zipfile

import pytest
from containers import CONTAINERS, add, content_of, write_shards, write_tar, write_zip
from image_folders import write_images
from PIL import Image
from predictions import make_image, predicted

import predict
from commands import named_images
from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.readers.named import NamedImages
from runtime.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(str(tmp_path_factory.mktemp("named") / "data"), train=4, val=3)


def added(*words, image_root="", decoding=AS_PUBLISHED):
    """The images that the words mean, and the lines about them."""
    images = NamedImages()
    lines = [line for word in words for line in named_images.add_source(images, word, image_root, decoding)]
    return images, lines


def names_of(images):
    return [images.name(number) for number in range(len(images))]


def contents_of(images):
    found = []
    for key, _ in images:
        with images.open(key) as file:
            found.append(file.read())
    return found


def members_of(part):
    return sorted(
        os.path.join(name, image) for name in os.listdir(part) for image in os.listdir(os.path.join(part, name))
    )


@pytest.mark.parametrize("write, ending", [(write_tar, ".tar"), (write_zip, ".zip"), (None, ".zip")])
def test_an_archive_has_the_images_of_its_folder_by_name(data, tmp_path, write, ending):
    part, path = os.path.join(data, "train"), str(tmp_path / ("some" + ending))
    if write is None:
        write_zip(part, path, zipfile.ZIP_DEFLATED)
    else:
        write(part, path)
    images, lines = added(path)
    assert names_of(images) == ["%s:%s" % (path, name) for name in members_of(part)] and lines == []
    folder, _ = added(part)
    assert contents_of(images) == contents_of(folder) == [content_of(name) for name in names_of(folder)]


@pytest.mark.parametrize("pattern", ["made-*.tar", "made-{000..002}.tar", "made-00[0-2].tar"])
def test_a_pattern_has_the_images_of_its_archives_one_after_the_other(data, tmp_path, pattern):
    part = os.path.join(data, "train")
    write_shards(part, str(tmp_path / "made-%03d.tar"))
    images, lines = added(str(tmp_path / pattern))
    expected = []
    for shard in range(3):
        path = str(tmp_path / ("made-%03d.tar" % shard))
        with tarfile.open(path) as archive:
            expected += ["%s:%s" % (path, name) for name in sorted(archive.getnames()) if name.endswith(".png")]
    assert names_of(images) == expected and len(images) == 8
    assert lines == []  # files of labels lie beside their images


def test_damaged_files_of_labels_do_not_matter(data, tmp_path):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", content_of(os.path.join(data, "train", "cat", "00.png")))
        add(archive, "1.json", b"\xff{")
        add(archive, "2.cls", b"3")
    images, lines = added(path)
    assert names_of(images) == [path + ":1.png"]
    assert lines == ["%s: 1 file passed over: .cls 1" % path]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_list_has_its_images_in_its_order(data, tmp_path, ending):
    made = str(tmp_path / "made")
    CONTAINERS[ending[1:]](data, made)
    images, lines = added(os.path.join(made, "train" + ending))
    expected = [os.path.join(data, "train", name) for name in members_of(os.path.join(data, "train"))][::-1]
    assert [os.path.normpath(name) for name in names_of(images)] == expected and lines == []
    shutil.copy(os.path.join(made, "train" + ending), str(tmp_path / ("copy" + ending)))
    moved, _ = added(str(tmp_path / ("copy" + ending)), image_root=made)
    assert contents_of(moved) == contents_of(images)


def test_what_is_passed_over_in_archives_is_counted_in_one_line(data, tmp_path):
    with tarfile.open(str(tmp_path / "a-0.tar"), "w") as archive:
        add(archive, "cat/1.png", content_of(os.path.join(data, "train", "cat", "00.png")))
        add(archive, "cat/notes.md", b"")
        add(archive, "cat/2.gif", b"")
        add(archive, ".thumbnails/1.png", b"")
    with tarfile.open(str(tmp_path / "a-1.tar"), "w") as archive:
        add(archive, "b.gif", b"")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    word = str(tmp_path / "a-*.tar")
    images, lines = added(word)
    assert names_of(images) == [str(tmp_path / "a-0.tar:cat/1.png")]
    assert lines == [
        word + ": 3 files passed over: .gif 2, .md 1; --extensions .gif reads such images too",
        word + ": 1 hidden folder passed over: .thumbnails; rename one that holds images to use",
        word + ": 1 archive member passed over (a link), such as link.png",
    ]
    images, _ = added(word, decoding=Decoding((".gif",)))
    assert [os.path.basename(name) for name in names_of(images)] == ["1.png", "2.gif", "a-1.tar:b.gif"]


def test_what_cannot_be_listed_is_refused_by_name(data, tmp_path):
    whole = str(tmp_path / "whole.tar")
    write_tar(os.path.join(data, "val"), whole)
    (tmp_path / "cut.tar").write_bytes(content_of(whole)[:3000])
    (tmp_path / "empty.zip").write_bytes(b"")
    with tarfile.open(str(tmp_path / "none.tar"), "w") as archive:
        add(archive, "notes.md", b"")
    (tmp_path / "bad.csv").write_text("path,label\na.png,\n")
    (tmp_path / "list.csv").write_text("path\na.png\n")
    for name, text in (
        ("cut.tar", "cut.tar: it is damaged, or cut off at byte 3000"),
        ("empty.zip", "empty.zip: it is empty"),
        ("none.tar", "none.tar holds no image (.jpg, "),
        ("{none,whole,cut}.tar", "cut.tar: it is damaged"),
        ("not there.tar", "not there.tar: No such file or directory"),
        ("not-{0..2}.tar", "not-0.tar: No such file or directory"),
        ("not-*.zip", "not-*.zip: No such file or directory"),
        ("not there.csv", "not there.csv cannot be read: No such file"),
        ("val.parquet", "val.parquet: No such file or directory"),
        ("val-{0..2}.parquet", "val-0.parquet: No such file or directory"),
        ("{a.parquet,b.tar}", "{a.parquet,b.tar}: it names Parquet files and others, such as "),
        ("bad.csv", "bad.csv line 2: the label is empty"),
        ("list.csv", "list.csv line 1: the header has the columns path and not label"),
    ):
        with pytest.raises(UserError) as raised:
            added(str(tmp_path / name))
        assert text in str(raised.value) and "\n" not in str(raised.value)


def test_other_words_are_paths(tmp_path):
    odd = ["a[1].png", "{a,b}.png", "*.jpg", "a\nb.png", "no\udcfftext.png", ""]
    images, lines = added(*odd)
    images.add_files(["high\ud800.png"])  # from Python
    assert names_of(images) == [*odd, "high\ud800.png"] and lines == []
    path = make_image(tmp_path / "x{1,2}*.tar")  # it exists: no pattern
    with pytest.raises(UserError, match=r"x\{1,2\}\*.tar: it is neither a tar nor a zip archive"):
        added(path)


def test_an_image_takes_few_bytes_beside_its_name(data, tmp_path):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        for number in range(2000):
            add(archive, "n01440764/ILSVRC2012_val_%08d.JPEG" % number, b"x")
    images, _ = added(path, os.path.join(data, "val"))
    assert len(images) == 2006 and len(pickle.dumps(images)) < 100 * 2006
    parts = [value for value in vars(images).values() if isinstance(value, bytearray) or hasattr(value, "itemsize")]
    assert len(parts) == 5 and sum(sys.getsizeof(part) for part in parts) < 100 * 2006
    again = pickle.loads(pickle.dumps(images))
    assert names_of(again) == names_of(images) and contents_of(again) == contents_of(images)
    with pytest.raises(IndexError):
        images[2006]


@pytest.mark.parametrize("words", [[], ["--batch-size=3", "--num-workers=2"]])
def test_predictions_of_archives_are_those_of_the_files(weights, data, tmp_path, capsys, words):
    part = os.path.join(data, "train")
    write_tar(part, str(tmp_path / "train.tar"))
    write_zip(part, str(tmp_path / "train.zip"))
    files, _ = predicted(capsys, weights, part, *words)
    for name in ("train.tar", "train.zip"):
        rows, err = predicted(capsys, weights, str(tmp_path / name), *words)
        assert [row["path"] for row in rows] == [
            "%s:%s" % (tmp_path / name, os.path.relpath(row["path"], part)) for row in files
        ]
        assert [row["top"] for row in rows] == [row["top"] for row in files] and err.count("\n") == 1
    mixed, _ = predicted(
        capsys, weights, part, str(tmp_path / "train.tar"), files[0]["path"], str(tmp_path / "*.zip"), *words
    )
    assert len(mixed) == 25 and mixed[16]["path"] == files[0]["path"] == mixed[0]["path"]
    for row, file in zip(mixed, [*files, *files, files[0], *files]):
        assert [best["class"] for best in row["top"]] == [best["class"] for best in file["top"]]


def test_a_broken_image_of_an_archive_is_named_in_each_style(weights, data, tmp_path, capsys):
    part, path = os.path.join(data, "val"), str(tmp_path / "odd\nname.tar")
    write_tar(part, path)
    with tarfile.open(path, "a") as archive:
        add(archive, "bad.png", b"nothing")
    rows, err = predicted(capsys, weights, path, "--plot=%s" % (tmp_path / "sheet.png"), status=1)
    assert rows[0] == {"path": path + ":bad.png", "top": None, "error": "no known image format"} and len(rows) == 7
    shown = "$'%s'" % (path + ":bad.png").replace("\n", "\\n")
    assert "predict.py: error: %s: no known image format\n" % shown in err and "1 of 7 images failed" in err
    assert predict.main([weights, path, "--device=cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("$'%s/odd\\nname.tar:cat/00.png'\t" % tmp_path)
    assert predict.main([weights, path, "--device=cpu", "--csv", "--top=1"]) == 1
    table = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row[0] for row in table[1:]] == [row["path"] for row in rows] and table[1][-1] == "no known image format"


def test_the_contact_sheet_shows_images_of_archives(weights, data, tmp_path, capsys):
    part = os.path.join(data, "val")
    write_tar(part, str(tmp_path / "val.tar"))
    sheets = []
    for word in (part, str(tmp_path / "val.tar")):
        sheet = str(tmp_path / ("%d.png" % len(sheets)))
        predicted(capsys, weights, word, "--plot=" + sheet)
        with Image.open(sheet) as drawn:
            sheets.append(drawn.tobytes())
    assert sheets[0] == sheets[1]


def test_a_row_of_a_list_without_its_file_fails_alone(weights, data, tmp_path, capsys):
    rows = [[os.path.join(data, "val", "cat", "00.png"), "cat"], ["gone.png", "dog"]]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(",".join(row) + "\n" for row in rows))
    found, err = predicted(capsys, weights, str(tmp_path / "list.csv"), status=1)
    assert found[0]["error"] is None and found[1]["error"] == "No such file or directory"
    assert "predict.py: error: %s: No such file or directory" % (tmp_path / "gone.png") in err


def test_a_damaged_archive_ends_predict_with_one_line(weights, data, tmp_path, capsys):
    write_tar(os.path.join(data, "val"), str(tmp_path / "a.tar"))
    (tmp_path / "a.tar").write_bytes(content_of(str(tmp_path / "a.tar"))[:3000])
    assert predict.main([weights, str(tmp_path / "a.tar"), "--device=cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "a.tar: it is damaged, or cut off at byte 3000" in printed.err.splitlines()[-1]
