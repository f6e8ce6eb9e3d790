"""tools/convert.py: checkpoints of each kind into each other and back, and what it refuses."""

import argparse
import os

import pytest
import torch
from recipe import fill

from checkpoints import loading, store
from runtime.compat import create_model
from tools import convert

SMALL = {"num_classes": 7, "image_size": 32}


@pytest.fixture(scope="module")
def models_of_families():
    names = ("smlpnet_tiny", "spach_xxs_patch16_224_mlp", "spach_ms_xxs_patch4_224_attn", "shiftvit_light_tiny")
    return {name: fill(create_model(name, **SMALL)) for name in names}


def authors_like(path, model, name, **more):
    """A checkpoint as the authors' program writes it."""
    options = argparse.Namespace(model=name, input_size=32, batch_size=112, lr=5e-4)
    payload = {
        "model": model.state_dict(),
        "optimizer": {"state": {}},
        "lr_scheduler": {},
        "epoch": 12,
        "args": options,
    }
    torch.save(dict(payload, **more), str(path), **store.ZIP_FORMAT)
    return str(path)


def assert_equal(path, model):
    state = loading.load(str(path))["model"]
    assert list(sorted(state)) == list(sorted(model.state_dict()))
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("name", ["smlpnet_tiny", "spach_xxs_patch16_224_mlp", "shiftvit_light_tiny"])
def test_round_trip_of_an_authors_checkpoint(tmp_path, models_of_families, name, capsys):
    source = authors_like(tmp_path / "authors.pth", models_of_families[name], name)
    kinds = ["ours", "authors", "ours", "authors"]
    try:
        import safetensors  # noqa: F401
    except ImportError:
        pass
    else:
        kinds.insert(2, "safetensors")
    for number, kind in enumerate(kinds):
        target = str(tmp_path / ("%d.%s" % (number, "safetensors" if kind == "safetensors" else "pth")))
        assert convert.main([source, target, "--to", kind]) == 0, capsys.readouterr().err
        assert "found    %s, 7 classes, 32 pixels" % name in capsys.readouterr().out
        assert_equal(target, models_of_families[name])
        source = target
    last = loading.load(source)
    assert isinstance(last["args"], argparse.Namespace) and last["args"].model == name
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")) == []


def test_what_is_known_is_kept(tmp_path, models_of_families):
    source = authors_like(tmp_path / "a.pth", models_of_families["shiftvit_light_tiny"], "shiftvit_light_tiny")
    assert convert.main([source, str(tmp_path / "b.pth")]) == 0
    loaded = loading.load(str(tmp_path / "b.pth"))
    assert loaded["epoch"] == 12 and loaded["format"] == store.FORMAT
    assert loaded["args"]["model"] == "shiftvit_light_tiny" and loaded["args"]["input_size"] == 32


def test_the_port_s_layout_is_kept(tmp_path, models_of_families, capsys):
    model = models_of_families["smlpnet_tiny"]
    options = argparse.Namespace(model="smlpnet_tiny", input_size=32, npu=True)
    ema = {name: value * 1.01 for name, value in model.state_dict().items()}
    source = authors_like(tmp_path / "port.pth", model, "smlpnet_tiny", args=options, model_ema=ema)
    assert convert.main([source, str(tmp_path / "ours.pth")]) == 0
    assert "token layout reshape, epoch 12, with EMA weights" in capsys.readouterr().out
    assert loading.load(str(tmp_path / "ours.pth"))["args"]["token_layout"] == "reshape"
    assert convert.main([source, str(tmp_path / "ema.pth"), "--ema"]) == 0
    assert "the Ascend port never updated these EMA weights" in capsys.readouterr().out
    assert torch.equal(loading.load(str(tmp_path / "ema.pth"))["model"]["batch_norm.bias"], ema["batch_norm.bias"])


def test_bare_weights_are_identified_by_their_shapes(tmp_path, models_of_families, capsys):
    for name, model in models_of_families.items():
        source = str(tmp_path / "bare.pth")
        torch.save(model.state_dict(), source, **store.ZIP_FORMAT)
        words = [source, str(tmp_path / "out.pth"), "--force", "--to=weights"]
        size = 224 if "attn" in name or "shiftvit" in name else 32  # their shapes do not depend on it
        assert convert.main(words) == 0, capsys.readouterr().err
        assert "found    %s, 7 classes, %d pixels" % (name, size) in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize(
    "content, words, text",
    [
        (None, [], "no such file"),
        (b"nothing of the kind", [], "it is damaged, or another kind of file"),
        ({"model": {"x": torch.zeros(1)}}, [], "holds the weights of none of the models"),
        ({"model": {"mlp_head.0.weight": Evil()}}, [], "which a checkpoint may not"),
    ],
)
def test_what_is_refused(tmp_path, content, words, text, capsys):
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        torch.save(content, str(source), **store.ZIP_FORMAT)
    assert convert.main([str(source), str(target), *words]) == 2
    printed = capsys.readouterr()
    assert text in printed.err and printed.err.count("\n") == 1 and "code has run" not in printed.out
    assert not target.exists()


def test_nothing_is_replaced_unasked(tmp_path, models_of_families, capsys):
    source = authors_like(tmp_path / "a.pth", models_of_families["smlpnet_tiny"], "smlpnet_tiny")
    target = tmp_path / "b.pth"
    target.write_bytes(b"mine")
    assert convert.main([source, str(target)]) == 2
    assert "b.pth exists" in capsys.readouterr().err and target.read_bytes() == b"mine"
    assert convert.main([source, str(target), "--ema"]) == 2
    assert convert.main([source, str(tmp_path / "none" / "b.pth")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err


def test_ema_weights_that_are_not_there(tmp_path, models_of_families, capsys):
    source = authors_like(tmp_path / "a.pth", models_of_families["smlpnet_tiny"], "smlpnet_tiny")
    assert convert.main([source, str(tmp_path / "b.pth"), "--ema"]) == 2
    assert "holds no EMA weights" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused(tmp_path, models_of_families, capsys):
    model = models_of_families["smlpnet_tiny"].state_dict()
    ema = dict(model, **{"mlp_head.0.bias": torch.zeros(9)})
    head = {"mlp_head.0.weight": torch.zeros(1, 1).expand(10**7, 640), "mlp_head.0.bias": torch.zeros(1).expand(10**7)}
    thin = {"mlp_head.0.weight": torch.zeros(10**6, 1), "mlp_head.0.bias": torch.zeros(10**6)}
    source, target = str(tmp_path / "a.pth"), str(tmp_path / "b.pth")
    for content, words, text in (
        ({"model": model, "model_ema": ema}, ["--ema"], "mlp_head.0.bias is (9,) there, (7,) here"),
        (dict(model, **head), [], "more values than the file can hold"),
        (dict(model, **thin), [], "of no model of that family"),
        (dict(model, **{"mlp_head.0.weight": torch.zeros(())}), [], "of no model of that family"),
        (dict(model, **{"to_patch_embedding.0.0.weight": torch.zeros(3)}), [], "of no model of that family"),
        (dict(model, **{"token_mix.0.1.proj_h.weight": torch.zeros(10**6, 1)}), [], "of no model of that family"),
    ):
        torch.save(content, source, **store.ZIP_FORMAT)
        assert convert.main([source, target, *words]) == 2
        errors = capsys.readouterr().err
        assert text in errors and len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    os.unlink(source)
    os.mkfifo(source)
    assert convert.main([source, target]) == 2
    assert "a.pth is not a readable checkpoint: not a regular file" in capsys.readouterr().err
