"""Fine-tuning: weights of other classes or of another image size, and rates that fall with the depth."""

import os
import re

import numpy
import pytest
import torch
from hostile import harms
from image_folders import make_folder
from small_runs import Stop, assert_equal_weights, weights
from torch.nn import functional

import main
from checkpoints import loading, store
from models.resampling import interpolation_matrix, resample
from models.shiftvit import ShiftViT
from models.smlp import SparseMLP, sMLPNet
from models.spach import Spach, SpatialMLP
from options import parsing
from runtime.compat import create_model
from runtime.errors import UserError
from tools import make_digits
from training import build, finetune, optim

FAMILIES = {
    "smlpnet": lambda **words: sMLPNet(dim=8, depths=(1, 2, 1, 1), **words),
    "spach": lambda **words: Spach([[("mlp", 2)]], hidden_dim=16, **words),
    "spach shared": lambda **words: Spach([[("mlp", 2)]], hidden_dim=16, shared_spatial_func=True, **words),
    "spach stages": lambda **words: Spach(
        [[("pass", 1)], [("mlp", 1)], [("attn", 1), ("mlp", 2)]], hidden_dim=16, num_heads=2, patch_size=4, **words
    ),
    "shiftvit": lambda **words: ShiftViT(embed_dim=12, depths=(1, 1, 2, 1), n_div=6, **words),
}
SIZES = [(32, 64), (64, 32), (64, 96), (96, 64)]


def source_of(model, classes=None, **options):
    return finetune.InitialWeights("c.pth", model.state_dict(), options, classes)


def random_weights(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.1)
    return model


def test_lines_are_interpolated():
    want = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert torch.equal(interpolation_matrix(2, 4), torch.tensor(want, dtype=torch.float64))
    signal = torch.rand(1, 1, 7, dtype=torch.float64)
    for new in (9, 14, 21):
        torch_s = functional.interpolate(signal, size=new, mode="linear", align_corners=False)[0, 0]
        numpy.testing.assert_allclose(interpolation_matrix(7, new) @ signal[0, 0], torch_s, atol=1e-6)
    numpy.testing.assert_allclose(
        (interpolation_matrix(14, 7) @ interpolation_matrix(7, 14)).numpy(), numpy.eye(7), atol=1e-12
    )
    assert torch.equal(interpolation_matrix(5, 5), torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("old, new", [(7, 14), (7, 12), (8, 24)])
def test_an_enlarged_image_is_mixed_as_the_small_one(old, new):
    """Rows and columns: what sMLPNet's larger matrices make of an interpolated image is the interpolated outcome."""
    first, second = (random_weights(SparseMLP(side, 4)) for side in (old, new))
    grown, count = resample(first.state_dict(), second.state_dict(), sMLPNet.line_mixers)
    assert count == 2
    second.load_state_dict(grown)
    image, enlarge = torch.randn(2, 4, old, old), interpolation_matrix(old, new).float()
    small = first._mix_permuted(image)
    large = second._mix_permuted(enlarge @ image @ enlarge.t())
    for got, want in zip(large, small):
        numpy.testing.assert_allclose(got.detach(), (enlarge @ want @ enlarge.t()).detach(), rtol=1e-4, atol=1e-5)


def test_an_enlarged_image_passes_the_token_mlp_as_the_small_one():
    first, second = random_weights(SpatialMLP(9, 5, 0.0)), random_weights(SpatialMLP(36, 18, 0.0), seed=1)
    names = {"spatial_func." + name: value for name, value in first.state_dict().items()}
    wanted = {"spatial_func." + name: value for name, value in second.state_dict().items()}
    grown, count = resample(names, wanted, token_mlps=Spach.token_mlps)
    assert count == 1
    second.load_state_dict({name.partition(".")[2]: value for name, value in grown.items()})
    image, enlarge = torch.randn(2, 3, 3, 4), interpolation_matrix(3, 6).float()

    def enlarged(tokens):
        return torch.einsum("ab,cd,nbdk->nack", enlarge, enlarge, tokens.view(2, 3, 3, 4)).reshape(2, 36, 4)

    with torch.no_grad():
        numpy.testing.assert_allclose(
            second(enlarged(image)), enlarged(first(image.view(2, 9, 4))), rtol=1e-4, atol=1e-5
        )
    second(enlarged(image)).sum().backward()
    assert (second.fc2.weight.grad[:, 5:] != 0).any()  # the new units learn


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("old, new", SIZES)
def test_every_family_moves_between_sizes(family, old, new):
    make = FAMILIES[family]
    first, second = random_weights(make(image_size=old, num_classes=5)), make(image_size=new, num_classes=5)
    finetune.load_weights(source_of(first), second, list("abcde"))
    got, before = second.state_dict(), first.state_dict()
    same = [name for name in got if got[name].shape == before[name].shape]
    assert all(torch.equal(got[name], before[name]) for name in same)
    assert torch.isfinite(second.eval()(torch.randn(2, 3, new, new))).all()
    if old < new:
        back = make(image_size=old, num_classes=5)
        finetune.load_weights(source_of(second), back, list("abcde"))
        for name, value in back.state_dict().items():
            numpy.testing.assert_allclose(value.numpy(), before[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_largest_units_remain():
    state = {"spatial_func." + name: value for name, value in SpatialMLP(36, 18, 0.0).state_dict().items()}
    state["spatial_func.fc1.bias"] = torch.arange(18.0)
    for unit in (3, 7, 8, 11):
        state["spatial_func.fc2.weight"][:, unit] *= 100
    wanted = {"spatial_func." + name: value for name, value in SpatialMLP(9, 4, 0.0).state_dict().items()}
    assert resample(state, wanted, token_mlps=Spach.token_mlps)[0]["spatial_func.fc1.bias"].tolist() == [3, 7, 8, 11]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_head_of_other_classes_stays_fresh(family):
    first = FAMILIES[family](image_size=32, num_classes=5)
    for classes in (4, 6):
        model = FAMILIES[family](image_size=32, num_classes=classes)
        fresh = {name: value.clone() for name, value in model.get_classifier().state_dict().items()}
        lines = finetune.load_weights(source_of(first), model, range(classes))
        assert lines == ["the head of 5 classes is replaced by a new one of %d" % classes]
        assert all(torch.equal(value, fresh[name]) for name, value in model.get_classifier().state_dict().items())
    headless = FAMILIES[family](image_size=32, num_classes=0)
    lines = finetune.load_weights(source_of(headless), FAMILIES[family](image_size=32, num_classes=3), range(3))
    assert lines == ["the head of no classes is replaced by a new one of 3"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_rows_of_a_kept_head_follow_the_names_of_the_classes(family):
    first, model = (FAMILIES[family](image_size=32, num_classes=3) for _ in range(2))
    random_weights(first)
    head = first.get_classifier().state_dict()
    for recorded in (["ant", "cat", "dog"], None, ["ant"], []):
        assert finetune.load_weights(source_of(first, recorded), model, ["ant", "cat", "dog"]) == []
        assert all(torch.equal(value, head[name]) for name, value in model.get_classifier().state_dict().items())
    lines = finetune.load_weights(source_of(first, ["cat", "dog", "ant"]), model, ["ant", "cat", "dog"])
    assert lines == ["the rows of the head are reordered by the names of the classes"]
    for name, value in model.get_classifier().state_dict().items():
        assert torch.equal(value, head[name][[2, 0, 1]])
        assert not torch.equal(value, head[name])


def test_a_head_of_as_many_other_classes_stays_fresh():
    for recorded in (["ant", "cat", "eel"], ["ant", "ant", "dog"]):
        first, model = (FAMILIES["smlpnet"](image_size=32, num_classes=3) for _ in range(2))
        fresh = model.mlp_head[0].weight.clone()
        lines = finetune.load_weights(source_of(first, recorded), model, ["ant", "cat", "dog"])
        assert lines == ["the head of 3 other classes is replaced by a new one of 3"]
        assert torch.equal(model.mlp_head[0].weight, fresh)


@pytest.mark.parametrize(
    "name, shape", [("proj_h.weight", (3,)), ("proj_h.weight", (8, 4, 1, 1)), ("proh_w.bias", None)]
)
def test_weights_of_no_known_shape_are_refused(name, shape):
    first, model = (FAMILIES["smlpnet"](image_size=side, num_classes=2) for side in (32, 64))
    source = source_of(first)
    source.weights = dict(source.weights)
    del source.weights["token_mix.0.1." + name]
    if shape:
        source.weights["token_mix.0.1." + name] = torch.zeros(shape)
    with pytest.raises(UserError, match=r"c\.pth is the checkpoint of another model"):
        finetune.load_weights(source, model, range(2))


@pytest.fixture
def trained(small, tmp_path):
    """A run of the small network on two classes; its folder."""
    folder = str(tmp_path / "trained")
    assert small("--output-dir=" + folder, "--epochs=1") == 0
    return folder


def test_a_run_begins_with_the_weights(small, trained, tmp_path, capsys):
    capsys.readouterr()
    out = str(tmp_path / "out")
    words = ["--output-dir=" + out, "--epochs=1", "--finetune=" + trained, "--lr=1e-30", "--warmup-lr=0", "--min-lr=0"]
    assert small(*words) == 0
    assert re.search("start +from the weights of " + re.escape(trained), capsys.readouterr().out)
    best, now = weights(trained, store.BEST), weights(out)
    learnt = [name for name, value in best["model"].items() if value.is_floating_point() and "running" not in name]
    for name in learnt:
        for part in ("model", "model_ema"):
            numpy.testing.assert_allclose(now[part][name], best["model"][name], rtol=1e-6)
    assert loading.load(os.path.join(out, store.LATEST))["epoch"] == 0


def test_other_classes_and_size_in_a_run(small, trained, tmp_path, capsys):
    data = make_folder(tmp_path / "three", train=(("a", 4), ("b", 4), ("c", 4)), val=(("a", 2), ("b", 2), ("c", 2)))
    capsys.readouterr()
    words = ["--data-path=" + data, "--input-size=64", "--epochs=1", "--finetune=" + trained]
    assert small("--output-dir=%s" % (tmp_path / "out"), *words) == 0
    out = capsys.readouterr().out
    assert "--finetune: the head of 2 classes is replaced by a new one of 3" in out
    assert re.search(r"--finetune: \d+ token-mixing layers are resampled to this --input-size", out)


def stop_after_an_epoch(small, monkeypatch, *words):
    """Have a run die once its first epoch is saved."""
    save = store.save

    def die(*arguments):
        save(*arguments)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(store, "save", die)
        assert small(*words) == 1


def test_a_stopped_fine_tuning_resumes_without_the_file(small, trained, monkeypatch, tmp_path):
    words, out = ["--finetune=" + trained, "--epochs=2"], str(tmp_path / "cut")
    assert small("--output-dir=%s" % (tmp_path / "whole"), *words) == 0
    stop_after_an_epoch(small, monkeypatch, "--output-dir=" + out, *words)
    os.rename(trained, trained + ".gone")
    assert small("--output-dir=" + out, *words) == 0
    assert_equal_weights(weights(out), weights(tmp_path / "whole"))


def test_where_finetune_has_no_effect(small, trained, tmp_path, capsys):
    assert small("--eval", "--resume=" + trained, "--finetune=" + trained) == 0
    assert "--finetune has no effect: nothing is trained" in capsys.readouterr().out
    assert small("--resume=" + trained, "--finetune=" + trained, "--epochs=1") == 0
    assert "--finetune has no effect: --resume names" in capsys.readouterr().out


def test_what_cannot_be_fine_tuned(small, trained, tmp_path, capsys):
    def refused(text, *words):
        capsys.readouterr()
        assert small("--epochs=1", *words) == 2
        assert text in capsys.readouterr().err

    refused("--finetune %s: no such file" % (tmp_path / "none"), "--finetune=%s" % (tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refused("the folder holds neither best.pth nor checkpoint.pth", "--finetune=%s" % (tmp_path / "empty"))
    refused("pass --model smlpnet_tiny", "--model=smlpnet_small", "--finetune=" + trained)
    path = str(tmp_path / "port.pth")
    torch.save(dict(loading.load(os.path.join(trained, store.BEST)), args={"npu": True}), path)
    refused("cannot be resampled: pass its own --input-size", "--input-size=64", "--finetune=" + path)
    torch.save({"model": harms(tmp_path)["mkdir"]}, path)
    refused("which a checkpoint may not", "--finetune=" + path)
    assert not (tmp_path / "harm").exists()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's digits; half of them, in train/, are learnt from."""
    folder = str(tmp_path_factory.mktemp("digits") / "images")
    make_digits.write_digits(folder, val_every=2)
    return folder


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="takes half a minute: run on the current torch alone")
@pytest.mark.parametrize("family", ["smlpnet", "spach"])
def test_weights_of_32_pixels_help_at_64(family, digits, monkeypatch, tmp_path, capsys):
    """A fine-tuned network classifies digits better than one trained from scratch for as long."""
    make = {
        "smlpnet": lambda **words: sMLPNet(dim=16, depths=(1, 1, 2, 1), **words),
        "spach": lambda **words: Spach([[("pass", 1)], [("mlp", 2)]], hidden_dim=24, patch_size=4, **words),
    }[family]
    keep = ("image_size", "num_classes")
    monkeypatch.setattr(build, "create_model", lambda _, **words: make(**{name: words[name] for name in keep}))
    recipe = [
        "--data-path=" + digits,
        "--batch-size=64",
        "--lr=0.024",
        "--warmup-lr=1e-4",
        "--device=cpu",
        "--amp=none",
    ]
    recipe += ["--aa=", "--hflip=0", "--reprob=0", "--mixup=0", "--cutmix=0", "--no-repeated-aug"]
    recipe += ["--no-model-ema", "--num-workers=0"]

    def learn(name, *words):
        assert main.main([*recipe, "--output-dir=%s" % (tmp_path / name), *words]) == 0, capsys.readouterr().err
        return loading.load(str(tmp_path / name / store.LATEST))["history"][-1]["test_acc1"]

    learn("small", "--input-size=32", "--epochs=5", "--warmup-epochs=1")
    words = ["--input-size=64", "--epochs=1", "--warmup-epochs=0", "--lr=0.006"]
    fresh = learn("fresh", *words)
    tuned = learn("tuned", "--finetune=%s" % (tmp_path / "small"), *words)
    print("64 pixels: %.1f %% from 32 pixels, %.1f %% from nothing" % (tuned, fresh))
    assert tuned > fresh + 5


MODELS = ["smlpnet_tiny", "spach_xxs_patch16_224_mlp", "spach_ms_xxs_patch4_224_mlp", "shiftvit_r4_tiny"]


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_numbered_in_the_order_of_the_computation(name):
    model = create_model(name, num_classes=3)
    fine, coarse = model.group_matcher(), model.group_matcher(coarse=True)
    names = [name for name, _ in model.named_parameters()]
    layers = {fine(name) for name in names}
    assert layers == set(range(sum(model.depths) + 2))
    assert {coarse(name) for name in names} == set(range(len(model.depths) + 2))
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    assert {fine(name) for name, parameter in model.named_parameters() if id(parameter) in head} == {max(layers)}
    reached = []
    for module_name, module in model.named_modules():
        own = (
            [name for name, _ in module.named_parameters(recurse=False)] if hasattr(module, "named_parameters") else []
        )
        if own:
            layer = fine("%s.%s" % (module_name, own[0]) if module_name else own[0])
            module.register_forward_hook(lambda *_, layer=layer: reached.append(layer))
    model.eval()(torch.zeros(1, 3, 224, 224))
    assert reached == sorted(reached) and set(reached) == layers


def groups_of(*words):
    options = parsing.parse(["--data-path=unused", "--lr=0.512", "--batch-size=512", *words])
    model = FAMILIES["smlpnet"](image_size=32, num_classes=2)
    optimizer = optim.build_optimizer(options, model, optim.scaled_lr(options, 1))
    return model, optimizer, optim.LearningRate(options, optimizer, optim.scaled_lr(options, 1))


@pytest.mark.parametrize("words", [[], ["--opt=sgd"], ["--opt=lookahead_adam"], ["--sched=step"]])
def test_rates_fall_with_the_depth(words):
    model, optimizer, rate = groups_of("--layer-decay=0.5", *words)
    _, plain, plain_rate = groups_of(*words)
    layer_of = model.group_matcher()
    layers = {id(parameter): layer_of(name) for name, parameter in model.named_parameters()}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sorted(decays) == sorted(layers)
    assert {decays[id(p)] for p in model.parameters() if p.dim() > 1} == {0.05}
    assert {decays[id(p)] for p in model.parameters() if p.dim() == 1} == {0.0}
    for epoch in (0, 7, 7, 120, 3):
        full = plain_rate.set(epoch)
        assert rate.set(epoch) == full
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(full * 0.5 ** (6 - layers[id(parameter)]))
    assert len(plain.param_groups) == 2


def test_layer_decay_resumes_to_the_same_bits(small, monkeypatch, tmp_path, capsys):
    words = ["--layer-decay=0.6", "--epochs=2"]
    assert small("--output-dir=%s" % (tmp_path / "whole"), *words) == 0
    out = str(tmp_path / "cut")
    stop_after_an_epoch(small, monkeypatch, "--output-dir=" + out, *words)
    capsys.readouterr()
    assert small("--output-dir=" + out, "--epochs=2", "--layer-decay=1") == 2
    assert "holds the state of --layer-decay 0.6: pass it" in capsys.readouterr().err
    assert small("--output-dir=" + out, *words) == 0
    assert_equal_weights(weights(out), weights(tmp_path / "whole"))
    other = str(tmp_path / "other")
    assert small("--output-dir=" + other, "--epochs=2", "--layer-decay=1") == 0
    assert any(not torch.equal(value, weights(other)["model"][name]) for name, value in weights(out)["model"].items())
