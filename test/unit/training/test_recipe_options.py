"""Options of the recipe: several batches a step, EMA warm-up, batch statistics, ways of mixing."""

import logging
import os
import re
import types

import numpy
import pytest
import torch
from bare_runs import run_of
from command_lines import parse
from recipe import normal, small_mixup
from small_runs import assert_equal_weights, cut_off, die_in, is_equal, weights

from checkpoints import loading, store
from models.smlp import sMLPNet
from options import parsing
from pipeline.samplers import PositionBatches, RASampler
from runtime.compat import create_model
from runtime.distributed import Ranks, sync_statistics
from runtime.ema import Ema
from runtime.errors import UserError
from training import build

SHIFT = {"embed_dim": 12, "depths": (1, 1, 2, 1), "n_div": 6}  # has no batch normalisation


def distance(got, want):
    """The norm of the difference of the weights over that of the weights."""
    names = [name for name, value in want.items() if value.is_floating_point()]
    parts = [torch.cat([state[name].double().flatten() for name in names]) for state in (got, want)]
    return ((parts[0] - parts[1]).norm() / parts[1].norm()).item()


# ---- several batches a step


def keys_of(samplers, batch_size, rounds=1, first_batch=0):
    order = PositionBatches(samplers, batch_size, rounds)
    order.first_batch = first_batch
    return [[position.key[2:] for position in batch] for batch in order]


def test_an_accumulated_step_has_the_images_of_a_large_batch():
    one = [RASampler(range(30), repeats=1)]
    assert sum(keys_of(one, 4, rounds=3), []) == sum(keys_of(one, 12), [])  # 24 of 30: whole steps alone
    two = [RASampler(range(30), 2, rank, repeats=1) for rank in (0, 1)]
    got = keys_of(two, 2, rounds=3)
    assert [batch[0] for batch in got] == [(rank, 2 * number) for number in range(6) for rank in (0, 1)]
    assert keys_of(two, 2, rounds=3, first_batch=6) == got[6:]


@pytest.fixture
def shift(small, monkeypatch):
    """As `small`, with a network that has no batch normalisation."""
    made = dict(SHIFT, drop_rate=0.0)
    monkeypatch.setattr(build, "create_model", lambda name, **given: create_model(name, **dict(given, **made)))
    plain = ["--model=shiftvit_r2_tiny", "--mixup=0", "--cutmix=0", "--drop-path=0", "--opt=momentum", "--lr=0.5"]
    return lambda *words: small(*plain, *words)


def test_accumulation_equals_a_large_batch_without_batch_normalisation(shift, tmp_path):
    runs = {"12": ["--batch-size=12"], "3 x 4": ["--grad-accum-steps=3"], "2 x 6": ["--batch-size=6"], "4": []}
    runs["2 x 6"].append("--grad-accum-steps=2")
    for name, words in runs.items():
        assert shift("--output-dir=%s" % (tmp_path / name), *words) == 0
    want = weights(tmp_path / "12")
    for name in ("3 x 4", "2 x 6"):
        got = weights(tmp_path / name)
        assert distance(got["model"], want["model"]) < 1e-6 and distance(got["model_ema"], want["model_ema"]) < 1e-6
        assert re.search(
            r"global batch +12 \(. a rank, accumulated over . batches\)", (tmp_path / name / "train_0.log").read_text()
        )
        assert "peak LR       0.0117188" in (tmp_path / name / "train_0.log").read_text()  # 0.5 * 12 / 512
    assert distance(weights(tmp_path / "4")["model"], want["model"]) > 1e-4


def test_each_accumulated_batch_has_its_own_statistics(small, tmp_path):
    assert small("--output-dir=%s" % (tmp_path / "accumulated"), "--grad-accum-steps=3", "--model-ema-decay=0") == 0
    assert small("--output-dir=%s" % (tmp_path / "large"), "--batch-size=12") == 0
    accumulated, large = weights(tmp_path / "accumulated"), weights(tmp_path / "large")
    tracked = "token_mix.0.0.conv_merge.BN.num_batches_tracked"
    assert (accumulated["model"][tracked].item(), large["model"][tracked].item()) == (9, 3)
    assert distance(accumulated["model"], large["model"]) > 1e-4


@pytest.mark.parametrize("more", [[], ["--virtual-ranks=2"]], ids=["alone", "virtual ranks"])
def test_a_stopped_run_that_accumulates_resumes_to_the_same_bits(small, monkeypatch, tmp_path, more):
    words = ["--batch-size=1", "--grad-accum-steps=2", "--input-size=64", "--mixup=0", "--cutmix=0", *more]
    words.append("--model-ema-warmup")
    assert small("--output-dir=%s" % (tmp_path / "whole"), *words) == 0
    cut_off(small, monkeypatch, 5, "--output-dir=%s" % (tmp_path / "cut"), *words)
    assert_equal_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_checkpoint_steps_count_steps(small, tmp_path, monkeypatch, capsys):
    out, saved = ["--output-dir=%s" % (tmp_path / "out")], []
    save = store.save
    monkeypatch.setattr(store, "save", lambda payload, *rest: (saved.append(payload["step"]), save(payload, *rest)))
    words = ["--batch-size=2", "--grad-accum-steps=2", "--checkpoint-steps=2", "--epochs=2"]
    assert small(*out, *words) == 0
    assert saved == [2, 0, 1, 0]  # steps 2 and 4 of 6 are within an epoch of 3
    state = loading.load(str(tmp_path / "out" / "checkpoint.pth"))["optimizer"]["state"]
    assert {int(entry["step"]) for entry in state.values()} == {6}


def test_accumulation_that_is_refused(small, tmp_path, capsys, monkeypatch):
    assert small("--grad-accum-steps=4") == 2
    assert "--grad-accum-steps 4: an epoch holds 3 batches of 4 images" in capsys.readouterr().err
    words = ["--output-dir=%s" % (tmp_path / "out"), "--batch-size=2"]
    die_in(small, monkeypatch, 3, *words, "--grad-accum-steps=2")
    capsys.readouterr()
    assert small(*words) == 2
    assert "stopped within an epoch: resume with its --grad-accum-steps 2" in capsys.readouterr().err


def test_the_images_of_the_bad_batch_are_named(small, tmp_path, monkeypatch):
    mix, mixed = build.Run.mix, []

    def poisoned(run, images, targets):
        mixed.append(1)
        return mix(run, images * float("nan") if len(mixed) == 4 else images, targets)

    monkeypatch.setattr(build.Run, "mix", poisoned)
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out, "--batch-size=2", "--grad-accum-steps=2", "--print-freq=1") == 1
    facts = loading.load(str(out / store.NOT_FINITE))["not_finite"]
    order = RASampler(range(12), repeats=1).indices().tolist()
    assert (facts["step"], facts["ranks"], facts["indices"]) == (1, [0], {0: order[6:8]})
    mixed.clear()
    assert small("--output-dir=%s" % (tmp_path / "skip"), "--grad-accum-steps=3", "--on-nonfinite=skip") == 0
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "skip")["model"].values())


# ---- warm-up of the EMA


def test_the_ema_warms_up():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, want = Ema(model, 0.5, warms_up=True), 0.0
    torch.nn.init.ones_(model.weight)
    for step in range(12):
        decay = min(0.5, (1 + step) / (10 + step))
        want = decay * want + (1 - decay)
        average.update(model, step)
        assert average.module.weight.item() == pytest.approx(want, rel=1e-6)
    assert average.decay_at(7) < 0.5 == average.decay_at(8) == average.decay_at(10**9)
    assert Ema(model, 0.5).decay_at(0) == 0.5


def test_warm_up_reaches_a_run_and_follows_its_steps(small, monkeypatch, tmp_path):
    for name, words in (("plain", []), ("warm", ["--model-ema-warmup"])):
        assert small("--output-dir=%s" % (tmp_path / name), *words) == 0
    plain, warm = weights(tmp_path / "plain"), weights(tmp_path / "warm")
    assert is_equal(plain["model"], warm["model"]) and not is_equal(plain["model_ema"], warm["model_ema"])
    assert distance(warm["model_ema"], warm["model"]) < distance(plain["model_ema"], plain["model"])
    cut_off(small, monkeypatch, 5, "--output-dir=%s" % (tmp_path / "cut"), "--model-ema-warmup")
    assert_equal_weights(weights(tmp_path / "cut"), warm)


# ---- batch statistics over all processes


def ranks_of(kind, world_size, virtual_size=None):
    device = types.SimpleNamespace(kind=kind)
    return types.SimpleNamespace(device=device, world_size=world_size, virtual_size=virtual_size or world_size)


def test_where_statistics_can_be_synchronised():
    can = Ranks.can_sync_statistics
    assert can(ranks_of("cuda", 2)) and not can(ranks_of("cuda", 1)) and not can(ranks_of("cpu", 1))
    for ranks, message in (
        (ranks_of("cpu", 2), "--sync-bn works between CUDA GPUs only, this is cpu"),
        (ranks_of("npu", 8), "--sync-bn works between CUDA GPUs only, this is npu"),
        (ranks_of("cuda", 1, 8), "--sync-bn: the statistics of 8 virtual ranks"),
    ):
        with pytest.raises(UserError, match=message):
            can(ranks)


def test_synchronised_statistics_keep_names_weights_and_function():
    torch.manual_seed(0)
    model = sMLPNet(dim=16, depths=(1, 1, 2, 1), image_size=32, num_classes=5).eval()
    count = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = normal("input", (2, 3, 32, 32))
    logits = model(images)
    synced = sync_statistics(model)
    assert synced is model and count == 11
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in synced.modules()) == count
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in synced.modules())
    after = Ema(synced, 0.9).state_dict()
    assert list(after) == list(before) and is_equal(before, after)
    synced.load_state_dict(before)
    if hasattr(torch, "compile"):  # an older one computes on a GPU alone
        assert torch.equal(synced(images), logits)
        assert torch.allclose(synced(images.contiguous(memory_format=torch.channels_last)), logits, atol=1e-5)


def test_sync_bn_reaches_a_run(small, tmp_path, monkeypatch, capsys):
    assert small("--sync-bn", "--epochs=1", "--output-dir=%s" % (tmp_path / "out")) == 0
    assert "--sync-bn has no effect: there is one process" in capsys.readouterr().out
    assert small("--sync-bn", "--virtual-ranks=2", "--batch-size=2") == 2
    assert "--sync-bn: the statistics of 2 virtual ranks" in capsys.readouterr().err
    assert small("--sync-bn", "--virtual-ranks=2", "--eval", "--resume=%s" % (tmp_path / "out")) == 0
    converted = []
    monkeypatch.setattr(Ranks, "can_sync_statistics", lambda ranks: True)
    monkeypatch.setattr(build, "sync_statistics", lambda model: converted.append(model) or model)
    assert small("--sync-bn", "--epochs=1") == 0 and len(converted) == 1
    if hasattr(torch, "compile"):
        assert small("--sync-bn", "--compile=on") == 2
        assert "--sync-bn: its blocks are not compiled" in capsys.readouterr().err


# ---- ways of mixing

MODES = ["batch", "pair", "elem"]


def mixing_run(mode):
    chosen = parse("--mixup-mode=" + mode)
    return run_of(None, mixup=build.build_mixup(chosen, 10), logger=logging.getLogger("x"))


@pytest.mark.parametrize("mode", MODES)
def test_mixing_follows_from_the_position(mode):
    run = mixing_run(mode)

    def mixed(*position, memory_format=torch.contiguous_format):
        run.seed_step(*position)
        return run.mix(normal("mixup", (8, 3, 32, 32)).contiguous(memory_format=memory_format), torch.arange(8))

    first = mixed(1, 5, 2)
    mixed(0, 0, 0)
    again = mixed(1, 5, 2, memory_format=torch.channels_last)
    assert all(torch.equal(got, want) for got, want in zip(again, first))
    for other in ((2, 5, 2), (1, 6, 2), (1, 5, 3)):
        assert not torch.equal(mixed(*other)[0], first[0])
    assert first[1].sum(dim=1).numpy() == pytest.approx(1, abs=1e-5)


def fractions(targets):
    """How much of each of 8 samples is its own, of targets without smoothing."""
    return targets[torch.arange(8), torch.arange(8)].numpy().round(5)


@pytest.mark.parametrize("mode", MODES)
def test_how_many_fractions_a_way_of_mixing_has(mode):
    """One fraction for the batch, one for each pair, or one for each image, over several samples."""
    mixup = small_mixup(mode)
    mixup.label_smoothing = 0.0
    counts = []
    for seed in range(8):
        numpy.random.seed(seed)
        _, targets = mixup(normal("mixup", (8, 3, 32, 32)), torch.arange(8))
        own = fractions(targets)
        counts.append(len(set(own)))
        if mode == "pair":
            assert (own == own[::-1]).all()
    assert max(counts) == {"batch": 1, "pair": 4, "elem": 8}[mode]


def test_each_way_of_mixing_trains_and_resumes(small, monkeypatch, tmp_path):
    states = {}
    for mode in MODES:
        words = ["--mixup-mode=" + mode, "--epochs=2"]
        assert small("--output-dir=%s" % (tmp_path / mode), *words) == 0
        states[mode] = weights(tmp_path / mode)
        cut_off(small, monkeypatch, 3, "--output-dir=%s" % (tmp_path / (mode + " cut")), *words)
        assert_equal_weights(weights(tmp_path / (mode + " cut")), states[mode])
    for first, second in (("batch", "pair"), ("pair", "elem"), ("elem", "batch")):
        assert not is_equal(states[first]["model"], states[second]["model"])


def test_what_changes_the_computation_is_part_of_a_run_s_identity():
    def identity(*words):
        return parsing.identity(parse(*words).as_dict())

    path = "--teacher-path=t.pth"
    variants = [[], ["--grad-accum-steps=2"], ["--model-ema-warmup"], ["--sync-bn"], ["--mixup-mode=elem"], [path]]
    variants += [[path, "--distillation-type=soft"], [path, "--distillation-type=hard"], ["--distillation-tau=2"]]
    variants += [["--distillation-alpha=0.1"], ["--teacher-model=resnet18"], ["--decay-milestones", "1", "2"]]
    found = [identity(*words) for words in variants]
    assert all(found.count(one) == 1 for one in found)
    assert os.path.isabs(identity(path)["teacher_path"])
    assert identity("--teacher-path=https://x/y-01234567.pth")["teacher_path"].startswith("https://")
