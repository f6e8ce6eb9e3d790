"""predict.py with a file of export_onnx.py: what the checkpoint gives, and what such a file cannot do."""

import json
import sys

import pytest
from predictions import make_image, predicted, save, small

import export_onnx
import predict
from checkpoints import loading, store
from checkpoints import weights as checkpoint_weights


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_weights, "create_model", small)
    return save(tmp_path / "weights.pth")


@pytest.fixture
def export(weights, tmp_path, capsys):
    """A function that exports the checkpoint with some words and returns the path of the file."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def run(*words):
        target = str(tmp_path / "model.onnx")
        assert export_onnx.main([weights, target, "--opset=11", "--force", *words]) == 0, capsys.readouterr().err
        capsys.readouterr()
        return target

    return run


def assert_same(rows, expected):
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
    for row, other in zip(rows, expected):
        assert row["error"] == other["error"]
        values, wanted = ({best["class"]: best["probability"] for best in one["top"]} for one in (row, other))
        assert values == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("words", [[], ["--with-preprocess"], ["--softmax"], ["--with-preprocess", "--softmax"]])
def test_an_exported_file_predicts_what_its_checkpoint_does(words, export, weights, tmp_path, capsys):
    images = [make_image(tmp_path / ("%d.png" % seed), seed, side=20 + 8 * seed) for seed in range(5)]
    expected, _ = predicted(capsys, weights, *images, "--top=10", "--batch-size=2")
    assert len({row["top"][0]["probability"] for row in expected}) == 5
    rows, err = predicted(capsys, export(*words), *images, "--top=10", "--batch-size=2")
    assert_same(rows, expected)
    assert err == "predict.py: smlpnet_tiny, 10 classes, 32 pixels, token layout permute, exported, by onnxruntime\n"


def test_it_classifies_from_python(export, weights, tmp_path):
    image = make_image(tmp_path / "a.png")
    found, expected = (dict(predict.load(path, device="auto")(image, top=10)) for path in (export(), weights))
    assert found == pytest.approx(expected, abs=1e-5)


def test_images_are_read_as_the_checkpoint_records(weights, export, tmp_path):
    args = {"model": "smlpnet_tiny", "input_size": 32, "extensions": [".gif"], "exif_transpose": True}
    store.save_as(dict(loading.load(weights), args=args), weights)
    decoding = predict.load(export()).decoding
    assert decoding.extensions == (".gif",) and decoding.exif_transpose


@pytest.mark.parametrize(
    "words, text",
    [
        (["--device=cuda"], "--device cuda: {0} runs on the CPU: pass --device cpu, or the checkpoint instead"),
        (["--device=npu"], "--device npu: {0} runs on the CPU"),
        (["--ema"], "--ema: {0} holds the weights that it was exported with"),
        (["--token-layout=permute"], "--token-layout: {0} was exported with its layout"),
    ],
)
def test_what_such_a_file_cannot_do_is_refused(words, text, tmp_path, capsys):
    path = str(tmp_path / "model.ONNX")
    assert predict.main([path, "a.png", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("predict.py: error: " + text.format(path)) and error.count("\n") == 1


def test_without_onnxruntime_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert predict.main([str(tmp_path / "model.onnx"), "a.png"]) == 2
    error = capsys.readouterr().err
    assert "model.onnx needs the package onnxruntime" in error and error.endswith("pip install onnxruntime\n")


def altered(path, **texts):
    """Write texts into the metadata of a file; None removes one."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    kept.update(texts)
    del model.metadata_props[:]
    for name, text in kept.items():
        if text is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = name, text
    onnx.save(model, path)


@pytest.mark.parametrize(
    "texts, text",
    [
        ({"classes": None}, "was not written by export_onnx.py: its metadata lack a name"),
        ({"classes": "[1, 2]"}, "was not written by export_onnx.py"),
        ({"input_size": "99999999"}, "was not written by export_onnx.py"),
        ({"model": None}, "was not written by export_onnx.py"),
        ({"mean": "[0.5, 0.5, 0.5]"}, "its metadata have another mean or std"),
        ({"extensions": '"?"'}, "pass --extensions"),
        ({"classes": json.dumps(list("ab"))}, "the file gives (1, 10) for 2 classes"),
    ],
)
def test_a_file_of_another_program_is_refused(texts, text, export, tmp_path, capsys):
    path = export()
    altered(path, **texts)
    assert predict.main([path, make_image(tmp_path / "a.png")]) == 2
    assert text in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_is_no_model_is_one_line(content, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert predict.main([str(path), "a.png"]) == 2
    error = capsys.readouterr().err
    assert "model.onnx: " in error and error.count("\n") == 1
