"""export_onnx.py: what it writes computes what torch computes, in each form, or is not there."""

import json
import os
import re
import subprocess
import sys

import numpy
import odd_pictures
import pytest
import torch
from paths import ROOT
from recipe import fill

import export_onnx
import predict
from checkpoints import export as export_module
from checkpoints import store
from checkpoints import weights as checkpoint_weights
from models.shiftvit import ShiftViT
from models.smlp import sMLPNet
from models.spach import Spach
from runtime import exporting
from runtime.names import DYNAMO_OPSET

STAGES = [[("pass", 1)], [("mlp", 1)], [("attn", 1)]]
FAMILIES = {
    "smlpnet": lambda **words: sMLPNet(dim=8, depths=(1, 1, 2, 1), **words),
    "spach": lambda **words: Spach(STAGES, hidden_dim=8, num_heads=2, patch_size=4, **words),
    "shiftvit": lambda **words: ShiftViT(embed_dim=12, depths=(1, 1, 2, 1), n_div=6, **words),
}
NAMES = {"smlpnet": "smlpnet_tiny", "spach": "spach_ms_xxs_patch4_224_mlp", "shiftvit": "shiftvit_r4_tiny"}
CLASSES = ["cat", "dog\n", "\u732b", "no\udcfftext", "e", "f", "g"]
has_program = pytest.mark.skipif(not hasattr(torch, "export"), reason="this torch has no torch.export")


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setattr(checkpoint_weights, "create_model", lambda name, **words: FAMILIES[name.split("_")[0]](**words))


def save(path, family="smlpnet", **more):
    """A checkpoint of a small model of the family, and the model."""
    model = fill(FAMILIES[family](num_classes=7, image_size=32))
    options = {"model": NAMES[family], "input_size": 32}
    store.save_as(dict({"model": model.state_dict(), "args": options, "classes": CLASSES}, **more), str(path))
    return str(path), model


def need_onnx():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def normalised(images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images.float() / 255 - mean) / std


@pytest.mark.parametrize(
    "family, opset, words",
    [
        ("smlpnet", None, ["--with-preprocess", "--softmax"]),
        ("spach", None, []),
        ("shiftvit", None, ["--with-preprocess", "--softmax"]),
        ("smlpnet", 11, ["--with-preprocess", "--softmax", "--token-layout=reshape"]),
    ],
)
def test_onnx(family, opset, words, tmp_path, capsys):
    onnxruntime = need_onnx()
    if opset is None and hasattr(torch, "export"):
        pytest.importorskip("onnxscript")
    source, model = save(tmp_path / "c.pth", family)
    target = tmp_path / "a model.onnx"
    asked = ["--opset=%d" % opset] if opset else []
    assert export_onnx.main([source, str(target), *words, *asked]) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    found = re.search(r"differs from torch by at most (\S+) with batches of 1 and 3 \(allowed: (\S+)\)", printed.out)
    assert float(found.group(1)) <= float(found.group(2)) and printed.err == ""
    assert "opset %d" % (opset or exporting.default_opset()) in printed.out
    assert left_in(tmp_path) == ["a model.onnx", "c.pth"] and os.fsencode(ROOT) not in target.read_bytes()
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES and metadata["model"] == NAMES[family]
    assert metadata["input_size"] == "32" and json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    if "--token-layout=reshape" in words:
        assert metadata["token_layout"] == "reshape"
        model = fill(sMLPNet(8, (1, 1, 2, 1), num_classes=7, image_size=32, token_layout="reshape"))
    for batch in (1, 2, 5):
        pixels = numpy.random.RandomState(batch).randint(0, 256, (batch, 3, 32, 32)).astype("uint8")
        with torch.no_grad():
            expected = model(normalised(torch.from_numpy(pixels)))
        if words:
            outputs, expected = session.run(["probabilities"], {"images": pixels})[0], expected.softmax(1)
        else:
            outputs = session.run(["logits"], {"images": normalised(torch.from_numpy(pixels)).numpy()})[0]
        numpy.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_damaged_onnx_file_is_not_kept(tmp_path, capsys, monkeypatch):
    need_onnx()
    source, _ = save(tmp_path / "c.pth", "shiftvit")
    target = tmp_path / "model.onnx"
    export = exporting.onnx_model

    def damaged(*words):
        model = export(*words)
        largest = max(model.graph.initializer, key=lambda weight: len(weight.raw_data))
        largest.raw_data = bytes(len(largest.raw_data))
        return model

    monkeypatch.setattr(exporting, "onnx_model", damaged)
    target.write_bytes(b"mine")
    assert export_onnx.main([source, str(target), "--opset=11", "--force"]) == 1
    assert "what was written differs from torch by" in capsys.readouterr().err
    assert left_in(tmp_path) == ["c.pth", "model.onnx"] and target.read_bytes() == b"mine"


def test_a_batch_that_is_not_free_is_noticed(tmp_path, capsys, monkeypatch):
    need_onnx()
    source, _ = save(tmp_path / "c.pth", "shiftvit")
    export = exporting.onnx_model

    def fixed(*words):
        model = export(*words)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        return model

    monkeypatch.setattr(exporting, "onnx_model", fixed)
    assert export_onnx.main([source, str(tmp_path / "model.onnx"), "--opset=11"]) == 1
    assert "fails at batch size 1" in capsys.readouterr().err and left_in(tmp_path) == ["c.pth"]


@pytest.mark.parametrize("ending", [".ts", pytest.param(".pt2", marks=has_program)])
@pytest.mark.parametrize("family", ["smlpnet", "spach", "shiftvit"])
def test_torch_s_own_forms(ending, family, tmp_path, capsys, monkeypatch):
    source, model = save(tmp_path / "c.pth", family)
    target = tmp_path / ("model" + ending)
    words = [source, str(target), "--with-preprocess", "--softmax"]
    assert export_onnx.main(words) == 0, capsys.readouterr().err
    assert "read again, differs from torch by at most" in capsys.readouterr().out
    module, metadata = {".ts": exporting.load_script, ".pt2": exporting.load_program}[ending](target.read_bytes())
    assert json.loads(metadata)["classes"] == CLASSES and json.loads(metadata)["model"] == NAMES[family]
    for batch in (1, 4):
        pixels = torch.randint(0, 256, (batch, 3, 32, 32)).to(torch.uint8)
        with torch.no_grad():
            expected = model(normalised(pixels)).softmax(1)
            assert (module(pixels) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("ending", [".ts", pytest.param(".pt2", marks=has_program)])
def test_another_s_weights_are_noticed(ending, tmp_path, capsys, monkeypatch):
    source, other = save(tmp_path / "c.pth", "shiftvit")
    target = tmp_path / ("model" + ending)
    target.write_bytes(b"mine")
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    name = {".ts": "script_file", ".pt2": "program_file"}[ending]
    make, wrong = getattr(exporting, name), export_module.DeployedModel(other, False, False).eval()
    monkeypatch.setattr(exporting, name, lambda module, *more: make(wrong, *more))
    assert export_onnx.main([source, str(target), "--force"]) == 1
    assert "what was written differs from torch by" in capsys.readouterr().err
    assert target.read_bytes() == b"mine" and left_in(tmp_path) == ["c.pth", target.name]


def test_safetensors(tmp_path, capsys, monkeypatch):
    library = pytest.importorskip("safetensors.torch")
    ema = {name: value + 1 for name, value in save(tmp_path / "c.pth")[1].state_dict().items()}
    source, _ = save(tmp_path / "c.pth", model_ema=ema)
    target = tmp_path / "no\udcfftext.safetensors"
    assert export_onnx.main([source, str(target), "--ema"]) == 0, capsys.readouterr().err
    assert "its weights are those of" in capsys.readouterr().out
    written = library.load(target.read_bytes())
    assert sorted(written) == sorted(ema) and all(torch.equal(written[name], ema[name]) for name in ema)
    read = checkpoint_weights.load_model(str(target))
    assert read.class_names == CLASSES and read.info.model == "smlpnet_tiny"
    save_all = library.save
    monkeypatch.setattr(
        library, "save", lambda weights, *more: save_all(dict(weights, **{"mlp_head.0.bias": torch.ones(7)}), *more)
    )
    assert export_onnx.main([source, str(target), "--force", "--format=safetensors"]) == 1
    assert "mlp_head.0.bias differs from what was written" in capsys.readouterr().err
    assert all(torch.equal(value, ema[name]) for name, value in library.load(target.read_bytes()).items())


def test_outputs_that_are_not_finite(tmp_path, capsys):
    model = save(tmp_path / "c.pth")[1].state_dict()
    source, _ = save(tmp_path / "c.pth", model=dict(model, **{"mlp_head.0.bias": torch.full((7,), float("nan"))}))
    assert export_onnx.main([source, str(tmp_path / "model.ts")]) == 1
    assert "are not finite" in capsys.readouterr().err and left_in(tmp_path) == ["c.pth"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(package, tmp_path, capsys, monkeypatch):
    for name in ("onnx", "onnxruntime", "onnxscript")[: ["onnx", "onnxruntime", "onnxscript"].index(package)]:
        pytest.importorskip(name)
    if package == "onnxscript" and exporting.default_opset() < DYNAMO_OPSET:
        pytest.skip("this torch exports by tracing, without onnxscript")
    source, _ = save(tmp_path / "c.pth")
    monkeypatch.setitem(sys.modules, package, None)
    assert export_onnx.main([source, str(tmp_path / "model.onnx")]) == 2
    assert "pip install %s\n" % package in capsys.readouterr().err and left_in(tmp_path) == ["c.pth"]


@pytest.mark.parametrize(
    "words, text",
    [
        (["not there.pth", "{new}.ts"], "the checkpoint not there.pth: no such file"),
        (["{source}", "{source}", "--format=torchscript"], "exists: name another file, or pass --force"),
        (["{source}", "{new}/model.ts"], "its folder does not exist"),
        (["{source}", "{new}.pt"], "which --format is meant"),
        (["{source}", "{new}.ts", "--opset=11"], "only ONNX has one"),
        (["{source}", "{new}.safetensors", "--softmax"], "holds weights alone"),
        (["{source}", "{new}.safetensors", "--with-preprocess"], "holds weights alone"),
        (["{source}", "{new}.ts", "--ema"], "holds no EMA weights"),
        (["{source}", "{folder}", "--force", "--format=torchscript"], "is a folder"),
    ],
)
def test_what_is_refused(words, text, tmp_path, capsys):
    source, _ = save(tmp_path / "c.pth")
    before = (tmp_path / "c.pth").read_bytes()
    words = [word.format(source=source, new=tmp_path / "new", folder=tmp_path) for word in words]
    assert export_onnx.main(words) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert left_in(tmp_path) == ["c.pth"] and (tmp_path / "c.pth").read_bytes() == before


def snippets():
    """The Python programs in docs/DEPLOY.md."""
    with open(os.path.join(ROOT, "docs", "DEPLOY.md"), encoding="utf-8") as file:
        return re.findall(r"```python\n(.*?)```", file.read(), re.S)


@pytest.mark.skipif(
    not hasattr(torch, "accelerator"), reason="the programs of docs/DEPLOY.md are for the current torch"
)
def test_the_programs_of_the_documentation(tmp_path, capsys):
    need_onnx()
    source, _ = save(tmp_path / "c.pth", classes=list("abcdefg"))
    odd_pictures.pixels(75, 50).save(str(tmp_path / "photo.jpg"), "JPEG")
    for name in ("model.onnx", "model.ts", "model.pt2"):
        words = ["--with-preprocess", "--softmax"] + ["--opset=11"] * (name == "model.onnx")
        assert export_onnx.main([source, str(tmp_path / name), *words]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert predict.main([source, str(tmp_path / "photo.jpg"), "--top=3", "--device=cpu"]) == 0
    cells = capsys.readouterr().out.strip().split("\t")[1:]
    programs = snippets()
    assert len(programs) == 3
    outputs = []
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], cwd=str(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    rows = [line.split("\t") for line in outputs[0].splitlines()]
    assert [row[0] for row in rows] == cells[::2]
    numpy.testing.assert_allclose([float(row[1]) for row in rows], [float(cell) for cell in cells[1::2]], atol=1e-4)
    assert outputs[1] == outputs[2] and re.match(r"\['[a-g]', '[a-g]'\]", outputs[1])
