"""predict.py: what evaluation counts, in each style, for any file; and how it ends."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys

import odd_pictures
import pytest
from paths import ROOT
from PIL import Image
from predictions import DIGITS, make_image, predicted, save, small
from torchvision.datasets.folder import IMG_EXTENSIONS

import main
import predict
from checkpoints import loading, store
from checkpoints import weights as checkpoint_weights
from runtime.compat import create_model
from tools import make_digits
from training import build


@pytest.fixture
def models(monkeypatch):
    monkeypatch.setattr(checkpoint_weights, "create_model", small)
    monkeypatch.setattr(build, "create_model", small)


@pytest.fixture
def weights(tmp_path, models):
    return save(tmp_path / "weights.pth")


@pytest.mark.parametrize("words", [["--batch-size=50"], ["--batch-size=355", "--num-workers=1"]])
def test_it_finds_what_evaluation_counts(words, weights, tmp_path, capsys):
    data, result = str(tmp_path / "digits"), str(tmp_path / "eval.json")
    make_digits.write_digits(data)
    evaluation = ["--eval", "--resume=" + weights, "--data-path=" + data, "--input-size=32", "--amp=none"]
    evaluation += ["--device=cpu", "--num-workers=0", "--no-model-ema", "--eval-json=" + result]
    assert main.main(evaluation) == 0, capsys.readouterr().err
    capsys.readouterr()
    with open(result) as file:
        expected = json.load(file)
    rows, _ = predicted(capsys, weights, os.path.join(data, "val"), "--top=10", *words)
    truth = [os.path.basename(os.path.dirname(row["path"])) for row in rows]
    ranked = [[best["class"] for best in row["top"]] for row in rows]
    assert len(rows) == expected["images"] == 355 and [row["path"] for row in rows] == sorted(
        row["path"] for row in rows
    )
    hits = sum(names[0] == name for names, name in zip(ranked, truth))
    assert 0 < hits < 355 and 100.0 * hits / 355 == expected["acc1"]
    assert 100.0 * sum(name in names[:5] for names, name in zip(ranked, truth)) / 355 == expected["acc5"]
    losses = []
    for row, name in zip(rows, truth):
        values = {best["class"]: best["probability"] for best in row["top"]}
        assert abs(sum(values.values()) - 1) < 1e-5 and list(values.values()) == sorted(values.values(), reverse=True)
        losses.append(-math.log(values[name]))
    assert abs(sum(losses) / 355 - expected["loss"]) < 1e-4


def test_lines_and_rows(weights, tmp_path, capsys):
    odd = [b"a b.png", b"tab\there.png", b'new\nline,".png', b"no\xfftext.png"]
    paths = [make_image(os.path.join(str(tmp_path), os.fsdecode(name)), seed) for seed, name in enumerate(odd)]
    rows, _ = predicted(capsys, weights, *paths, "--top=2")
    assert [row["path"] for row in rows] == paths and all(row["error"] is None for row in rows)
    assert predict.main([weights, *paths, "--top=2", "--device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and [line.count("\t") for line in lines] == [4] * 4
    assert lines[0].split("\t")[0] == paths[0]
    assert lines[2].split("\t")[0] == "$'%s/new\\nline,\".png'" % tmp_path
    for line, row in zip(lines, rows):
        cells = line.split("\t")
        assert cells[1::2] == [best["class"] for best in row["top"]]
        assert all(abs(float(cell) - best["probability"]) < 1e-6 for cell, best in zip(cells[2::2], row["top"]))


def run_as_program(words, content=b""):
    """Run predict.py: (exit status, stdout, stderr) in bytes."""
    environ = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, os.path.join(ROOT, "predict.py"), *words]
    done = subprocess.run(command, input=content, capture_output=True, env=environ)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def real_weights(tmp_path_factory):
    """Of smlpnet_tiny itself, for the program in a process of its own."""
    return save(tmp_path_factory.mktemp("real") / "weights.pth", make=create_model)


def test_csv_of_paths_on_stdin(real_weights, tmp_path):
    names = [b"a,b.png", b"line\nbreak.png", b"no\xfftext.png"]
    paths = [os.fsencode(make_image(os.path.join(str(tmp_path), os.fsdecode(name)))) for name in names]
    paths.append(os.fsencode(str(tmp_path / "not there.png")))
    status, out, err = run_as_program([real_weights, "-", "--csv", "--top=3"], b"\0".join(paths))
    assert status == 1 and b"not there.png: No such file" in err and b"1 of 4 images failed" in err
    rows = list(csv.reader(io.StringIO(out.decode("utf-8", "surrogateescape"), newline="")))
    header = ["path", "class_1", "probability_1", "class_2", "probability_2", "class_3", "probability_3", "error"]
    assert rows[0] == header and [os.fsencode(row[0]) for row in rows[1:]] == paths
    assert rows[1][1] in DIGITS and 0 < float(rows[1][2]) <= 1 and rows[1][-1] == ""
    assert rows[4][1:] == [""] * 6 + ["No such file or directory"]


def test_a_reader_that_leaves_ends_it_quietly(real_weights, tmp_path):
    for number in range(3):
        make_image(tmp_path / ("%d.png" % number))
    command = '"$1" predict.py "$2" "$3" --batch-size=1 | true; echo ${PIPESTATUS[0]}'
    words = ["bash", "-c", command, "bash", sys.executable, real_weights, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, cwd=ROOT)
    assert done.stdout == b"141\n" and b"smlpnet_tiny, 10 classes" in done.stderr
    assert done.stderr.count(b"predict.py: ") == 1 and b"Error" not in done.stderr, done.stderr


def test_ctrl_c(real_weights):
    command = [sys.executable, os.path.join(ROOT, "predict.py"), real_weights, "-"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert b"smlpnet_tiny, 10 classes" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert process.stderr.read() == b"predict.py: interrupted\n"
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_odd_and_broken_pictures(weights, tmp_path, capsys):
    for name, content in odd_pictures.decodable().items():
        (tmp_path / "good" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "good" / "deep" / name).write_bytes(content)
    (tmp_path / "good" / "notes.txt").write_text("no image")
    broken, pipe = tmp_path / "broken.png", str(tmp_path / "pipe.png")
    broken.write_bytes(b"nothing")
    os.mkfifo(pipe)
    rows, err = predicted(
        capsys, weights, str(broken), pipe, str(tmp_path / "good"), "--batch-size=4", "--top=99", status=1
    )
    count = len([name for name in odd_pictures.decodable() if name.lower().endswith(IMG_EXTENSIONS)])
    assert len(rows) == 2 + count and count > 5
    assert rows[0]["path"] == str(broken) and rows[0]["top"] is None and rows[0]["error"]
    assert rows[1]["top"] is None and rows[1]["error"] == "not a regular file"
    assert all(row["error"] is None and len(row["top"]) == 10 for row in rows[2:])
    assert "broken.png: " in err and "2 of %d images failed" % len(rows) in err


def test_which_weights(models, tmp_path, capsys):
    image = make_image(tmp_path / "a.png")
    (tmp_path / "run").mkdir()
    best = save(tmp_path / "run" / "best.pth", scale=1)
    save(tmp_path / "run" / "checkpoint.pth", scale=3)
    of_run, _ = predicted(capsys, str(tmp_path / "run"), image)
    assert of_run == predicted(capsys, best, image)[0]
    os.unlink(best)
    assert predicted(capsys, str(tmp_path / "run"), image)[0] != of_run
    ema, _ = predicted(capsys, str(tmp_path / "run"), image, "--ema")
    assert ema[0]["top"][0]["class"] == "9"
    reshaped, err = predicted(capsys, str(tmp_path / "run"), image, "--token-layout=reshape")
    assert reshaped != of_run and "token layout reshape" in err
    numbered, err = predicted(capsys, save(tmp_path / "bare.pth", classes=None), image)
    assert "no class names: classes are numbered" in err and numbered == of_run


def test_metadata_of_a_safetensors_file_that_is_wrong(models, tmp_path, capsys):
    library = pytest.importorskip("safetensors.torch")
    weights = small("smlpnet_tiny", num_classes=10, image_size=32).state_dict()
    for recorded, text in (
        ("[1]", "its args is a list"),
        ("{", "is not JSON"),
        ('{"input_size": "x"}', "whole number"),
    ):
        (tmp_path / "a.safetensors").write_bytes(library.save(weights, {"args": recorded}))
        status = predict.main([str(tmp_path / "a.safetensors"), make_image(tmp_path / "a.png"), "--device=cpu"])
        error = capsys.readouterr().err
        assert status == 2 and text in error, error


def test_weights_that_are_not_finite(models, tmp_path, capsys):
    rows, err = predicted(
        capsys, save(tmp_path / "nan.pth", scale=float("nan")), make_image(tmp_path / "a.png"), status=1
    )
    assert rows[0]["top"] is None and rows[0]["error"] == "the output of the model is not finite"


def test_a_contact_sheet(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "MOST_ON_SHEET", 7)
    (tmp_path / "images").mkdir()
    for number in range(9):
        make_image(tmp_path / "images" / ("%d.png" % number), number, side=20 + 30 * number)
    sheet = tmp_path / "a sheet.png"
    words = [weights, str(tmp_path / "images"), str(tmp_path / "none.png"), "--plot", str(sheet)]
    _, err = predicted(capsys, *words, status=1)
    assert "shows 7 images, 2 more are left out" in err
    with Image.open(str(sheet)) as drawn:
        assert drawn.format == "PNG" and drawn.size == (5 * 168 + 8, 2 * 200 + 8)
        tiles = [
            drawn.convert("L").crop((8 + 168 * (n % 5), 8 + 200 * (n // 5), 168 + 168 * (n % 5), 200 * (n // 5) + 200))
            for n in range(10)
        ]
    assert [len(tile.getcolors(256 * 256)) > 50 for tile in tiles] == [True] * 7 + [False] * 3
    captions = [tile.crop((0, 160, 160, 192)).getextrema()[0] < 100 for tile in tiles]
    assert captions == [True] * 7 + [False] * 3
    before = sheet.read_bytes()
    assert predict.main(words) == 2 and "pass --force" in capsys.readouterr().err and sheet.read_bytes() == before
    assert predict.main([*words, "--force", "--ema"]) == 1 and sheet.read_bytes() != before
    assert predict.main([weights, str(tmp_path / "none.png"), "--plot=%s" % (tmp_path / "other.png")]) == 1
    assert not (tmp_path / "other.png").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    "words, text",
    [
        (["not there.pth", "a.png"], "the checkpoint not there.pth: no such file"),
        (["{folder}", "a.png"], "the folder holds neither best.pth nor checkpoint.pth"),
        (["{weights}"], "IMAGE|SOURCE|-"),
        (["{weights}", "{folder}"], "holds no image"),
        (["{weights}", "a.png", "--top=0"], "--top"),
        (["{weights}", "a.png", "--json", "--csv"], "not allowed with"),
        (["{weights}", "a.png", "--top", "3", "b.png"], "b.png stands apart"),
        (["{weights}", "a.png", "--plot=sheet.jpg"], "must end in .png"),
        (["{weights}", "a.png", "--plot=no such folder/sheet.png"], "its folder does not exist"),
        (["{weights}", "a.png", "--device=cuda:1"], "--device"),
        (["{weights}", "a.png", "--batchsize=1"], "did you mean --batch-size"),
    ],
)
def test_what_is_refused(words, text, weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    words = [word.format(weights=weights, folder=tmp_path / "empty") for word in words]
    assert predict.main(words) == 2
    printed = capsys.readouterr()
    assert text in printed.err.splitlines()[-1] and printed.out == ""


def test_a_path_that_begins_like_an_option(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    make_image("--an_image.png")
    rows, _ = predicted(capsys, weights, "--top=1", "--batch_size=2", "--", "--an_image.png")
    assert rows[0]["path"] == "--an_image.png" and rows[0]["error"] is None


def assert_close(found, want):
    """Equal classes, and probabilities up to the rounding of another batch size."""
    assert [name for name, _ in found] == [name for name, _ in want]
    assert [value for _, value in found] == pytest.approx([value for _, value in want], rel=1e-5)


def test_a_classifier_from_python(weights, tmp_path, capsys):
    paths = [make_image(tmp_path / ("%d.png" % number), number, side=20 + 30 * number) for number in range(3)]
    rows, _ = predicted(capsys, weights, *paths, "--top=3")
    expected = [[(best["class"], best["probability"]) for best in row["top"]] for row in rows]
    classifier = predict.load(weights, device="cpu")
    assert classifier.class_names == DIGITS
    assert classifier(paths, top=3) == expected
    with Image.open(paths[2]) as opened:
        for found, want in zip(classifier([opened, paths[0]], top=3), (expected[2], expected[0])):
            assert_close(found, want)
    assert_close(classifier(paths[1], top=3), expected[1])
    grey = Image.open(paths[0]).convert("LA")
    grey.save(str(tmp_path / "grey.png"))
    assert classifier(grey) == classifier(str(tmp_path / "grey.png")) and len(classifier(grey)) == 5
    assert classifier([]) == []
    assert predict.load(weights, device="cpu", ema=True)(paths[0])[0][0] == "9"


def test_a_classifier_names_the_image_that_fails(weights, models, tmp_path):
    classifier = predict.load(weights, device="cpu")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.png: no known image format"):
        classifier([make_image(tmp_path / "a.png"), str(tmp_path / "broken.png")])
    with pytest.raises(ValueError, match="not there.png: No such file"):
        classifier(str(tmp_path / "not there.png"))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(str(tmp_path / "short.png")) as opened, pytest.raises(ValueError, match=r"short.png: .*truncated"):
        classifier([opened])
    with pytest.raises(ValueError, match="an image in memory: .*would be resized to"):
        classifier(Image.new("RGB", (1, 300000)))
    with pytest.raises(ValueError, match="the output of the model is not finite"):
        predict.load(save(tmp_path / "nan.pth", scale=float("nan")), device="cpu")(make_image(tmp_path / "a.png"))


def write_all(folder, names):
    """Write an image of another seed under each name."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        kind = "GIF" if name.lower().endswith(".gif") else "PNG"
        odd_pictures.pixels(32, 32, seed).save(str(folder / name), kind)
    return folder


def test_what_is_passed_over_in_a_folder_is_counted(weights, tmp_path, capsys):
    folder = write_all(tmp_path / "photos", ["a.png", "b.gif", "c.GIF", "d.heic"])
    write_all(folder / ".thumbnails", ["a.png"])
    rows, err = predicted(capsys, weights, str(folder), str(folder / "b.gif"))
    assert [os.path.basename(row["path"]) for row in rows] == ["a.png", "b.gif"]  # a file that is named is read
    line = (
        "predict.py: %s: 3 files passed over: .gif 2, .heic 1; --extensions .gif .heic reads such images too" % folder
    )
    assert line in err and "%s: 1 hidden folder passed over: .thumbnails; " % folder in err
    rows, err = predicted(capsys, weights, str(folder), "--extensions", ".gif")
    assert [os.path.basename(row["path"]) for row in rows] == ["a.png", "b.gif", "c.GIF"]
    assert "1 file passed over: .heic 1" in err


def test_a_folder_of_other_files_alone_is_told_with_their_kinds(weights, tmp_path, capsys):
    folder = write_all(tmp_path / "photos", ["a.heic", "b.heic"])
    assert predict.main([weights, str(folder)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "photos holds no image (.jpg, " in line and "; 2 files passed over: .heic 2; --extensions .heic reads" in line
    )


def top_of(rows):
    return {os.path.basename(row["path"]): row["top"] for row in rows}


def test_images_are_read_as_in_training(models, tmp_path, capsys):
    folder = write_all(tmp_path / "photos", ["a.png", "b.gif"])
    scene, exif = odd_pictures.pixels(32, 32, 7), Image.Exif()
    exif[0x112] = 6
    scene.save(str(folder / "upright.png"))
    scene.transpose(Image.ROTATE_90).save(str(folder / "photo.png"), exif=exif.tobytes())
    args = {"model": "smlpnet_tiny", "input_size": 32, "extensions": [".gif"], "exif_transpose": True}
    recorded = save(tmp_path / "recorded.pth")
    store.save_as(dict(loading.load(recorded), args=args), recorded)
    rows, err = predicted(capsys, recorded, str(folder))
    top = top_of(rows)
    assert len(rows) == 4 and "passed over" not in err and top["photo.png"] == top["upright.png"]
    rows, err = predicted(capsys, recorded, str(folder), "--no-exif-transpose", "--extensions", ".bin")
    assert len(rows) == 3 and ".gif 1" in err and top_of(rows)["photo.png"] != top_of(rows)["upright.png"]
    classifier = predict.load(recorded, device="cpu")
    with Image.open(str(folder / "photo.png")) as opened:
        assert classifier(str(folder / "photo.png")) == classifier(opened) == classifier(scene)
    sheets = []
    for words in ((), ("--no-exif-transpose",)):
        sheet = tmp_path / ("sheet%d.png" % len(words))
        predicted(capsys, recorded, str(folder / "photo.png"), "--plot=%s" % sheet, *words)
        with Image.open(str(sheet)) as drawn:
            sheets.append(drawn.crop((8, 8, 168, 168)).tobytes())
    assert sheets[0] != sheets[1]
