"""predict.py on Parquet files: the rows as if they were files, without labels, each row group read once."""

import os

import pytest
from containers import content_of, images_of, write_tar
from image_folders import write_images
from parquet_data import images_column, need_pyarrow, write_parquet
from PIL import Image
from predictions import predicted

import predict
from commands import named_images
from pipeline import parquet_listing
from pipeline.decoding import AS_PUBLISHED
from pipeline.readers.named import NamedImages
from pipeline.readers.parquet import ParquetReader
from runtime.errors import UserError

need_pyarrow()
WORKERS = ([], ["--batch-size=3", "--num-workers=0"], ["--batch-size=3", "--num-workers=2"], ["--batch-size=100"])


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A folder with 24 images in class folders."""
    return os.path.join(write_images(str(tmp_path_factory.mktemp("named") / "data"), train=12, val=1), "train")


def contents_in(part):
    return [content_of(path) for _, path in images_of(part)]


def without_labels(path, contents, group=5):
    """Write a file whose only column holds the images."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": images_column(contents)}), str(path), row_group_size=group)
    return str(path)


def added(*words):
    images = NamedImages()
    for word in words:
        assert named_images.add_source(images, str(word), "", AS_PUBLISHED) == []
    return images


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """A function that returns the (file, row group) that all processes have read since it was called last."""
    path, decode = tmp_path / "decoded.txt", ParquetReader._decode

    def counted(reader, opened, group, rows):
        with open(str(path), "a") as file:
            file.write("%d %d\n" % (opened.metadata.num_rows, group))
        return decode(reader, opened, group, rows)

    monkeypatch.setattr(ParquetReader, "_decode", counted)

    def read():
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return [tuple(map(int, line.split())) for line in lines]

    return read


@pytest.mark.parametrize("words", WORKERS)
def test_predictions_are_those_of_the_files_and_each_row_group_is_read_once(
    weights, part, tmp_path, capsys, words, decoded
):
    files, _ = predicted(capsys, weights, part, *words)
    path = without_labels(tmp_path / "some.parquet", contents_in(part))
    rows, err = predicted(capsys, weights, path, *words)
    assert [row["path"] for row in rows] == ["%s:row %d" % (path, number) for number in range(24)]
    assert [[best["class"] for best in row["top"]] for row in rows] == [
        [best["class"] for best in row["top"]] for row in files
    ]
    for row, file in zip(rows, files):
        assert [best["probability"] for best in row["top"]] == pytest.approx([b["probability"] for b in file["top"]])
    assert sorted(decoded()) == [(24, group) for group in range(5)] and err.count("\n") == 1


def test_words_of_several_kinds_keep_their_order_and_one_row_group_is_kept(weights, part, tmp_path, capsys, decoded):
    contents = contents_in(part)
    for number in range(2):
        write_parquet(tmp_path / ("p-%d.parquet" % number), contents[:11], [-1] * 11, 5)  # labels as of a test set
    plain = write_parquet(tmp_path / "plain.parquet", contents[:7], [0] * 7, 2, is_struct=False)
    write_tar(part, str(tmp_path / "t.tar"))
    pattern, image = str(tmp_path / "p-*.parquet"), images_of(part)[0][1]
    words = [weights, image, pattern, str(tmp_path / "t.tar"), plain, image, "--num-workers=2", "--batch-size=4"]
    rows, _ = predicted(capsys, *words)
    names = ["%s:row %d" % (tmp_path / ("p-%d.parquet" % file), row) for file in range(2) for row in range(11)]
    found = [row["path"] for row in rows]
    assert found[:23] == [image, *names] and found[-8:] == ["%s:row %d" % (plain, row) for row in range(7)] + [image]
    assert sorted(decoded()) == sorted([(11, group) for group in range(3)] * 2 + [(7, group) for group in range(4)])
    images = added(pattern, plain)
    for key, _ in images:
        with images.open(key) as file:
            file.read()
        assert sum(len(reader._blocks) for reader in images._parquet) == 1


def test_unreadable_rows_are_named_and_fail_alone(weights, part, tmp_path, capsys):
    contents = contents_in(part)[:6]
    contents[1], contents[4] = None, b"nothing"
    path = write_parquet(tmp_path / "odd\nname.parquet", contents, [0] * 6, 2)
    rows, err = predicted(capsys, weights, path, status=1)
    assert [row["error"] for row in rows] == [
        None,
        "its column image has no bytes",
        None,
        None,
        "no known image format",
        None,
    ]
    shown = "$'%s" % path.replace("\n", "\\n")
    assert "predict.py: error: %s:row 4': no known image format\n" % shown in err and "2 of 6 images failed" in err


def test_files_that_cannot_be_read_end_predict_with_one_line(weights, part, tmp_path, capsys, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    whole = content_of(without_labels(tmp_path / "whole.parquet", contents_in(part)))
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    without_labels(tmp_path / "none.parquet", [])
    parquet.write_table(pyarrow.table({"picture": [b"a"]}), str(tmp_path / "other.parquet"))
    for name, text in (
        ("cut.parquet", "cut.parquet cannot be read as Parquet: "),
        ("none.parquet", "none.parquet holds no rows"),
        ("other.parquet", "other.parquet has the columns picture, and needs one named image: write it anew so"),
        ("{whole,cut}.parquet", "cut.parquet cannot be read as Parquet: "),
    ):
        assert predict.main([weights, str(tmp_path / name), "--device=cpu"]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and text in printed.err.splitlines()[-1]
    monkeypatch.setattr(parquet_listing, "_LARGEST_BLOCK", 100)
    with pytest.raises(UserError, match=r"whole.parquet: the row group 0 has 0.0 GB of images"):
        added(tmp_path / "whole.parquet")


def test_the_contact_sheet_shows_rows(weights, part, tmp_path, capsys):
    path = without_labels(tmp_path / "some.parquet", contents_in(part))
    sheets = []
    for word in (part, path):
        sheet = str(tmp_path / ("%d.png" % len(sheets)))
        predicted(capsys, weights, word, "--plot=" + sheet)
        with Image.open(sheet) as drawn:
            sheets.append(drawn.tobytes())
    assert sheets[0] == sheets[1]
