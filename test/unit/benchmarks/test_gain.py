"""export_onnx.py --int8 and --half: the file is written where it is fast and accurate, and otherwise not."""

import os
import re

import pytest
import torch
from predictions import make_image, predicted, save, small
from recipe import fill

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

import export_onnx
from benchmarks import gain
from checkpoints import export as export_module
from checkpoints import weights as checkpoint_weights
from models import inference
from models.smlp import sMLPNet
from runtime import quantizing

LIMITLESS = ["--min-speedup=0", "--max-loss=100"]
IMAGES = 24


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(checkpoint_weights, "create_model", small)
    monkeypatch.setattr(gain, "ROUNDS", 1)
    monkeypatch.setattr(gain, "SECONDS", 0)


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "weights.pth")


@pytest.fixture
def photos(weights, tmp_path, capsys):
    """Class folders of images, each in the folder of the class that the checkpoint gives it."""
    paths = [make_image(tmp_path / ("%d.png" % seed), seed) for seed in range(IMAGES)]
    for row in predicted(capsys, weights, *paths)[0]:
        folder = tmp_path / "photos" / row["top"][0]["class"]
        folder.mkdir(parents=True, exist_ok=True)
        os.rename(row["path"], str(folder / os.path.basename(row["path"])))
    return str(tmp_path / "photos")


def export(*words):
    return export_onnx.main([*words, "--opset=13"])


@pytest.mark.parametrize("more", [[], ["--with-preprocess", "--softmax"]])
def test_int8_is_written_and_predicts_nearly_the_same(more, weights, photos, tmp_path, capsys):
    target = str(tmp_path / "int8.onnx")
    words = [weights, target, "--int8", "--calibration-data=" + photos, *LIMITLESS, *more]
    assert export(*words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert re.search(r"int8     \d+ of \d+ products converted, calibrated on 12 images\n", out)
    assert re.search(r"speed    \S+ times as fast as torch, \S+ times as fast as onnxruntime in float32", out)
    accuracy = r"accuracy \S+ %, 100\.00 % in float32, of 12 images: \S+ points lost, at most 100.00 allowed\n"
    assert re.search(accuracy, out) and re.search(r"written  \S+ as onnx, int8 \(\S+ MB\)\n", out)
    onnx = pytest.importorskip("onnx")
    model = onnx.load(target)
    kinds = {value.data_type for value in model.graph.initializer if len(value.dims) == 2}
    assert onnx.TensorProto.INT8 in kinds
    found, err = predicted(capsys, target, photos, "--top=10")
    expected, _ = predicted(capsys, weights, photos, "--top=10")
    assert "precision int8" in err
    for row, other in zip(found, expected):
        values, wanted = ({best["class"]: best["probability"] for best in one["top"]} for one in (row, other))
        assert values != wanted and values == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("preprocesses", [False, True])
def test_torch_eager_is_the_forward_pass_of_an_evaluation(preprocesses, weights, monkeypatch):
    network, evaluated, is_faster = checkpoint_weights.load_model(weights), [], inference.is_faster

    def recorded(model, images):
        evaluated.append((model, images.is_contiguous(memory_format=torch.channels_last)))
        return is_faster(model, images)

    monkeypatch.setattr(inference, "is_faster", recorded)
    module = export_module.DeployedModel(network.model, preprocesses, True).eval()
    images = module.example(3, 32)
    with torch.no_grad():
        expected = module(images)
    torch.testing.assert_close(gain.eager(module)(images), expected)
    assert evaluated == [(network.model, True)]


def test_half_is_written_and_predicts_nearly_the_same(weights, photos, tmp_path, capsys):
    target = str(tmp_path / "half.onnx")
    assert export(weights, target, "--half", "--validation-data=" + photos, *LIMITLESS) == 0, capsys.readouterr().err
    assert "%d images" % IMAGES in capsys.readouterr().out
    onnx = pytest.importorskip("onnx")
    types = {value.data_type for value in onnx.load(target).graph.initializer if len(value.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT16}
    found, err = predicted(capsys, target, photos)
    expected, _ = predicted(capsys, weights, photos)
    assert "precision half" in err
    assert [row["top"][0]["class"] for row in found] == [row["top"][0]["class"] for row in expected]


def test_a_file_that_is_not_fast_enough_is_not_written(weights, photos, tmp_path, capsys):
    target = tmp_path / "int8.onnx"
    target.write_bytes(b"mine")
    words = ["--calibration-data=" + photos, "--min-speedup=1000", "--max-loss=100", "--force"]
    assert export(weights, str(target), "--int8", *words) == 1
    printed = capsys.readouterr()
    text = r"failed: \S+int8.onnx is not written: it is \d+\.\d\d times as fast as \w+, not 1000.00 \(--min-speedup\)\n"
    assert re.search(text, printed.err) and "points lost" in printed.out
    assert target.read_bytes() == b"mine"


def test_a_file_that_is_not_accurate_enough_is_not_written(weights, photos, tmp_path, capsys, monkeypatch):
    def wrong(data, batches):
        """What another model's weights give: every image is of a class that none is of."""
        assert sum(len(batch) for batch in batches) == 12
        other = fill(sMLPNet(dim=8, depths=(1, 1, 2, 1), num_classes=10, image_size=32))
        empty = next(number for number in range(10) if not os.path.isdir(os.path.join(photos, str(number))))
        other.mlp_head[0].bias.data[empty] += 1000
        network = checkpoint_weights.load_model(weights)
        module = export_module.DeployedModel(other.eval(), False, False).eval()
        return quantizing.Reduced(export_module.fast_onnx_file(network, module, 13), 1, 2)

    monkeypatch.setitem(gain.CONVERTERS, "int8", wrong)
    words = ["--int8", "--calibration-data=" + photos, "--min-speedup=0"]
    assert export(weights, str(tmp_path / "int8.onnx"), *words) == 1
    printed = capsys.readouterr()
    assert "int8.onnx is not written: it loses 100.00 points of accuracy, more than 0.50 (--max-loss)\n" in printed.err
    assert "accuracy 0.00 %, 100.00 % in float32, of 12 images: 100.00 points lost, at most 0.50 allowed" in printed.out
    assert not (tmp_path / "int8.onnx").exists()


def test_validation_images_of_their_own_leave_all_others_for_calibration(weights, photos, tmp_path, capsys):
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(3):
        make_image(others / ("%d.png" % seed), 100 + seed)
    words = ["--int8", "--calibration-data=%s" % others, "--validation-data=" + photos, *LIMITLESS]
    assert export(weights, str(tmp_path / "int8.onnx"), *words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "calibrated on 3 images" in out and "of %d images" % IMAGES in out


@pytest.mark.parametrize(
    "words, text",
    [
        (["--int8"], "--int8 needs --calibration-data: a folder of images like those"),
        (["--half"], "--validation-data is missing: name the folder of images"),
        (["--int8", "--calibration-data=nowhere"], "--calibration-data nowhere: no such folder"),
        (["--int8", "--calibration-data={empty}"], "--calibration-data {empty}: there is no image in it"),
        (
            ["--int8", "--calibration-data={flat}"],
            "--calibration-data {flat}: a.png lies in no folder with the name of",
        ),
        (["--half", "--validation-data={flat}"], "--validation-data {flat}: a.png lies in no folder with the name of"),
        (["--calibration-data={flat}"], "--calibration-data: it is for --int8 and --half"),
        (["--int8", "--half"], "--half: not allowed with argument --int8"),
        (["--int8", "--calibration-data={flat}", "--opset=12"], "--opset 12: --int8 needs at least 13"),
        (["--int8", "--format=torchscript"], "--int8: it is for ONNX, and OUT is to be torchscript"),
    ],
)
def test_what_cannot_be_reduced_is_refused(words, text, weights, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "flat")}
    for folder in places.values():
        folder.mkdir()
    make_image(places["flat"] / "a.png")
    words = [word.format(**places) for word in words]
    assert export_onnx.main([weights, str(tmp_path / "new.onnx"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("export_onnx.py: error: " + text.format(**places)) and error.count("\n") == 1
    assert not (tmp_path / "new.onnx").exists()
