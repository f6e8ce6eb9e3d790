"""Every option of main.py has an effect: two of its values give different runs. An option without a row here fails."""

import os

import compared_runs as seen
import pytest
import torch
from compared_runs import weights
from in_process import LAUNCHERS
from paths import ROOT
from small_models import create_tiny_model

from options import parsing
from pipeline import image_index
from runtime.compat import timm
from training import build


def row(observe, first, second, both=""):
    """Two values that must be seen to differ, and the words that both runs have beside them."""
    return observe, first.split(), second.split(), both.split()


SPACH = "--model=spach_xxs_patch16_224_mlp"
UNMIXED = "--mixup=0 --cutmix=0"
MOMENTUM = "--opt=momentum"
STEPS = "--epochs=3 --sched=step --decay-epochs=1"
TAUGHT = "--teacher-model=smlpnet_tiny --teacher-path={trained}"
NOISE = "--epochs=4 --lr-noise 0"

MODEL = {
    "model": [row(weights, "", SPACH)],
    "input_size": [row(weights, "", "--input-size=64")],
    "drop": [row(weights, "", "--drop=0.5")],
    "drop_path": [row(weights, "", "--drop-path=0.9")],
    "token_layout": [row(weights, "--token-layout=permute", "--token-layout=reshape")],
    "stem_type": [row(weights, "--stem-type=conv1", "--stem-type=conv4", SPACH)],
    "shared_spatial_func": [row(weights, "", "--shared-spatial-func", SPACH)],
    "finetune": [row(weights, "", "--finetune={trained}")],
    "list_models": [row(seen.printed, "", "--list-models")],
    "model_ema": [row(seen.ema, "--model-ema", "--no-model-ema")],
    "model_ema_warmup": [row(seen.ema, "", "--model-ema-warmup")],
    "model_ema_decay": [row(seen.ema, "", "--model-ema-decay=0.9")],
    "model_ema_force_cpu": [row(seen.calls("cpu"), "", "--model-ema-force-cpu")],
}

DATA = {
    "data_path": [row(weights, "", "--data-path={other}")],
    "train_data": [row(weights, "", "--train-data={other}/train")],
    "val_data": [row(seen.validation, "", "--val-data={other}/val")],
    "image_root": [row(weights, "--image-root={data}/train", "--image-root={other}/train", "--train-data={list}")],
    "extensions": [row(weights, "", "--extensions .gif", "--data-path={photos}")],
    "exif_transpose": [row(weights, "--no-exif-transpose", "--exif-transpose", "--data-path={photos}")],
    "index_cache": [row(seen.files, "", "--index-cache={work}/cache")],
    "data_set": [row(seen.ending, "", "--data-set=CIFAR")],
    "inat_category": [row(seen.warned, "", "--inat-category=x")],
    "num_workers": [row(seen.loader, "", "--num-workers=2")],
    "loader": [row(seen.ending, "", "--loader=fast")],
    "pin_mem": [row(seen.loader, "--pin-mem", "--no-pin-mem")],
    "skip_bad_images": [row(seen.ending, "", "--skip-bad-images", "--data-path={damaged}")],
}

AUGMENTATION = {
    "color_jitter": [row(weights, "", "--color-jitter=0.9", "--aa=")],
    "aa": [row(weights, "", "--aa="), row(weights, "", "--aa=rand-m1")],
    "smoothing": [row(weights, "", "--smoothing=0.5"), row(weights, "", "--smoothing=0.5", UNMIXED)],
    "train_interpolation": [row(weights, "", "--train-interpolation=bilinear", "--input-size=64")],
    "loss": [row(weights, "", "--loss=bce"), row(weights, "", "--loss=bce", UNMIXED)],
    "scale": [row(weights, "--scale 0.5 1", "--scale 0.9 1")],
    "ratio": [row(weights, "--ratio 1 1", "--ratio 2 2")],
    "vflip": [row(weights, "--vflip=0", "--vflip=1")],
    "mixup_off_epoch": [row(weights, "", "--mixup-off-epoch=1", "--epochs=2")],
    "hflip": [row(weights, "--hflip=0", "--hflip=1")],
    "repeated_aug": [row(weights, "--repeated-aug", "--no-repeated-aug")],
    "reprob": [row(weights, "--reprob=0", "--reprob=1")],
    "remode": [row(weights, "--remode=const", "--remode=rand", "--reprob=1")],
    "recount": [row(weights, "--recount=1", "--recount=5", "--reprob=1")],
    "resplit": [row(seen.warned, "", "--resplit")],
    "mixup": [
        row(weights, "--mixup=0", "--mixup=0.8", "--cutmix=0"),
        row(weights, "--mixup=0", "--mixup=0.8", "--mixup-switch-prob=0"),
        row(weights, "--mixup=0.8", "--mixup=8", "--cutmix=0"),
    ],
    "cutmix": [
        row(weights, "--cutmix=0", "--cutmix=1", "--mixup=0"),
        row(weights, "--cutmix=0", "--cutmix=1", "--mixup-switch-prob=1"),
        row(weights, "--cutmix=1", "--cutmix=9", "--mixup=0"),
    ],
    "cutmix_minmax": [
        row(weights, "", "--cutmix-minmax 0.1 0.2", UNMIXED),
        row(weights, "--cutmix-minmax 0.7 0.8", "--cutmix-minmax 0.1 0.2", "--mixup=0"),
    ],
    "mixup_prob": [row(weights, "--mixup-prob=0", "--mixup-prob=1")],
    "mixup_switch_prob": [row(weights, "--mixup-switch-prob=0", "--mixup-switch-prob=1")],
    "mixup_mode": [row(weights, "--mixup-mode=batch", "--mixup-mode=elem")],
}

CLASSES = {
    "class_weights": [
        row(weights, "", "--class-weights={weights}"),
        row(weights, "", "--class-weights={weights}", UNMIXED),
        row(weights, "", "--class-weights=auto", "--data-path={photos}"),
    ],
    "class_weights_power": [row(weights, "", "--class-weights-power=1", "--class-weights=auto --data-path={photos}")],
    "balanced_sampling": [row(weights, "", "--balanced-sampling=1", "--data-path={photos}")],
}

LEARNING = {
    "batch_size": [row(weights, "", "--batch-size=2")],
    "grad_accum_steps": [row(weights, "", "--grad-accum-steps=2")],
    "opt": [row(weights, "", "--opt=sgd")],
    "opt_eps": [row(weights, "", "--opt-eps=1")],
    "opt_betas": [row(weights, "", "--opt-betas 0.5 0.6")],
    "momentum": [row(weights, "--momentum=0.1", "--momentum=0.9", MOMENTUM)],
    "weight_decay": [row(weights, "", "--weight-decay=0.5")],
    "clip_grad": [row(weights, "", "--clip-grad=0.01", MOMENTUM), row(weights, "--clip-grad=0.01", "--clip-grad=0.02")],
    "lr": [row(weights, "", "--lr=0.06")],
    "epochs": [row(seen.epochs, "", "--epochs=2")],
    "sched": [row(weights, "", "--sched=step", "--epochs=3 --decay-epochs=1")],
    "layer_decay": [row(weights, "", "--layer-decay=0.5")],
    "warmup_epochs": [row(weights, "", "--warmup-epochs=2")],
    "warmup_lr": [row(weights, "", "--warmup-lr=0.001", "--warmup-epochs=1")],
    "min_lr": [row(weights, "", "--min-lr=0.01", "--epochs=3")],
    "decay_epochs": [row(weights, "", "--decay-epochs=2", STEPS)],
    "decay_milestones": [
        row(weights, "--decay-milestones 1 2", "--decay-milestones 2 3", "--epochs=3 --sched=multistep")
    ],
    "decay_rate": [row(weights, "", "--decay-rate=0.5", STEPS)],
    "lr_noise": [row(weights, "--epochs=4", NOISE)],
    "lr_noise_pct": [row(weights, "", "--lr-noise-pct=0.1", NOISE)],
    "lr_noise_std": [row(weights, "", "--lr-noise-std=0.1", NOISE)],
    "cooldown_epochs": [row(seen.warned, "", "--cooldown-epochs=1")],
    "patience_epochs": [row(seen.warned, "", "--patience-epochs=1")],
    "distillation_type": [
        row(weights, "", "--distillation-type=soft", TAUGHT),
        row(weights, "--distillation-type=hard", "--distillation-type=soft", TAUGHT),
    ],
    "teacher_model": [row(seen.ending, "", "--teacher-model=smlpnet_small", "--distillation-type=soft " + TAUGHT)],
    "teacher_path": [row(weights, "", "--teacher-path={trained_too}", "--distillation-type=soft " + TAUGHT)],
    "distillation_alpha": [row(weights, "", "--distillation-alpha=0.9", "--distillation-type=soft " + TAUGHT)],
    "distillation_tau": [row(weights, "", "--distillation-tau=3", "--distillation-type=soft " + TAUGHT)],
}

DEVICE = {
    "device": [row(seen.ending, "--device=cpu", "--npu")],
    "amp": [row(seen.ending, "", "--amp=native")],
    "amp_dtype": [row(seen.ending, "--amp-dtype=bfloat16", "--amp-dtype=float16", "--amp=native")],
    "compile": [row(seen.calls("compile"), "--compile=off", "--compile=on")],
    "fused": [row(seen.ending, "", "--fused=on")],
    "deterministic": [row(seen.flags, "", "--deterministic")],
    "bind_cpu": [row(seen.calls("bind_cores"), "", "--bind-cpu")],
    "dist_url": [row(seen.joining, "", "--dist-url=tcp://a:1")],
    "dist_timeout": [
        row(seen.joining, "", "--dist-timeout=77"),
        row(seen.loader, "", "--dist-timeout=77", "--num-workers=1"),
    ],
    "virtual_ranks": [row(weights, "", "--virtual-ranks=2", "--batch-size=2")],
    "sync_bn": [row(seen.warned, "", "--sync-bn")],
    "grad_compression": [row(seen.warned, "", "--grad-compression=bf16")],
    "world_size": [row(seen.warned, "", "--world-size=2")],
    "local_rank": [row(seen.joining, "", "--local-rank=0")],
}

RUN = {
    "config": [row(weights, "--config={low}", "--config={high}")],
    "output_dir": [row(seen.files, "", "--output-dir={work}/elsewhere")],
    "mirror": [row(seen.ending, "", "--mirror=ftp://there/run")],
    "seed": [row(weights, "", "--seed=1")],
    "resume": [row(weights, "", "--resume={trained}")],
    "auto_resume": [row(seen.beside_a_run, "--auto-resume", "--no-auto-resume")],
    "existing_output": [
        row(seen.beside_a_run, "--existing-output=resume", "--existing-output=rename"),
        row(seen.beside_a_run, "--existing-output=resume", "--existing-output=match"),
        row(seen.beside_a_run, "--existing-output=rename", "--existing-output=match", "--seed=7"),
    ],
    "start_epoch": [row(seen.epochs, "", "--start-epoch=1", "--epochs=2")],
    "checkpoint_steps": [row(seen.calls("save"), "", "--checkpoint-steps=1")],
    "on_nonfinite": [row(seen.poisoned, "--on-nonfinite=stop", "--on-nonfinite=skip")],
    "best_by": [row(seen.best_epoch, "--best-by=acc1", "--best-by=loss", "--epochs=2")],
    "print_freq": [row(seen.progress_lines, "--print-freq=1", "--print-freq=10", "--batch-size=2")],
    "eval": [row(seen.files, "", "--eval", "--resume={trained}")],
    "eval_json": [row(seen.files, "", "--eval-json={work}/result.json", "--eval --resume={trained}")],
    "per_class": [row(seen.files, "", "--per-class")],
    "dist_eval": [row(seen.shard, "--dist-eval", "--no-dist-eval")],
    "throughput": [row(seen.files, "", "--throughput")],
    "tracker": [row(seen.files, "", "--tracker=tensorboard")],
    "dry_run": [row(seen.files, "", "--dry-run")],
    "print_completion": [row(seen.printed, "", "--print-completion=bash")],
}

EFFECTS = {**MODEL, **DATA, **AUGMENTATION, **CLASSES, **LEARNING, **DEVICE, **RUN}
# Of what a CPU does not have, or this folder; the file that sees the effect.
ELSEWHERE = {"opt_level": "test/simulated_npu/unit/test_options_on_npu.py"}
ELSEWHERE.update(dict.fromkeys(["data_cache", "data_cache_gb"], "test/unit/pipeline/test_remote_data.py"))
ACTIONS = [action for action in parsing.build_parser()._actions if action.dest != "help"]

UNAVAILABLE = {}
if not hasattr(torch, "autocast"):
    UNAVAILABLE["amp_dtype"] = "this torch has no autocast on a CPU"
if not hasattr(timm.optim, "list_optimizers"):
    UNAVAILABLE["decay_milestones"] = "timm 0.4.5 has no multistep"
    UNAVAILABLE["lr_noise_std"] = "timm 0.4.5 has the noise of one deviation alone"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    for name in LAUNCHERS:
        patch.delenv(name, raising=False)
    patch.setattr(build, "create_model", create_tiny_model)
    patch.setattr(image_index, "RACY_NS", 10**7)  # a folder that was still for 10 ms is listed for good
    yield seen.Bench(tmp_path_factory.mktemp("effects"), patch)
    patch.undo()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.option_strings[-1])
def test_every_option_has_a_row(action):
    if action.dest in ELSEWHERE:
        with open(os.path.join(ROOT, ELSEWHERE[action.dest])) as file:
            assert action.option_strings[0] in file.read()
        return
    words = [word for observe, first, second, _ in EFFECTS[action.dest] for word in [*first, *second]]
    assert any(word.partition("=")[0] in action.option_strings for word in words)


def test_every_row_is_of_an_option():
    assert {action.dest for action in ACTIONS} == set(EFFECTS) | set(ELSEWHERE)


ROWS = [(dest, position) for dest, rows in EFFECTS.items() for position in range(len(rows))]


@pytest.mark.parametrize("dest, position", ROWS, ids=lambda value: str(value))
def test_two_values_give_different_runs(bench, dest, position):
    if dest in UNAVAILABLE:
        pytest.skip("NOT CHECKED: " + UNAVAILABLE[dest])
    observe, first, second, both = EFFECTS[dest][position]
    assert observe(bench, both + first) != observe(bench, both + second)


@pytest.mark.parametrize("dest", sorted(EFFECTS))
def test_what_changes_the_weights_is_part_of_a_run_s_identity(dest):
    """So that --existing-output match takes no other run for this one."""
    changes = any(observe is weights for observe, *_ in EFFECTS[dest])
    assert not changes or dest not in parsing.INCIDENTAL or dest in ("config", "virtual_ranks")


def test_the_same_words_give_the_same_run(bench):
    """Otherwise chance alone would make two runs differ."""
    again = ["--print-freq=10"]  # the default
    assert weights(bench, again) == weights(bench, [])
    assert seen.ema(bench, again) == seen.ema(bench, [])
    assert seen.files(bench, again) == seen.files(bench, [])
