"""A training step that prints nothing never waits for the device: the host reads no value of a tensor."""

import pytest
import torch

pytest.importorskip("torch.utils._python_dispatch", reason="this torch has no modes that see each operator")
if not hasattr(torch, "compile"):
    pytest.skip("this torch has no loss scaler and no fused optimizer on a CPU", allow_module_level=True)

from host_waits import HostWaits
from image_folders import make_folder
from in_process import begin_run
from small_models import create_small_model
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import engine
from runtime import amp
from runtime.compat import create_model
from training import build
from training.run import Run

STEPS = 8
FLOAT32 = ["--amp=none"]
RECIPE = ["--clip-grad=1", "--model-ema-decay=0.9", "--drop=0.1", "--drop-path=0.1", "--print-freq=100"]


class Batches:
    """The same noise for every step; `now` is the step that is being taken."""

    batch_size, parts, skipped, now = 4, 1, 0, None

    def __init__(self, parts=1):
        self.parts = parts
        self.batch = torch.randn(self.batch_size, 3, 32, 32), torch.arange(self.batch_size) % 2

    def __len__(self):
        return STEPS

    def epoch(self, epoch, first_step=0):
        for step in range(STEPS):
            self.now = step
            for _ in range(self.parts):
                yield self.batch[0].clone(), self.batch[1].clone()

    def images_of(self, epoch, number, rank):
        return []


@pytest.fixture
def make_run(monkeypatch, tmp_path):
    """make_run(*words) -> the Run of main.py with the recipe's options and these, on a small network."""
    monkeypatch.setattr(build, "create_model", create_small_model)
    data = make_folder(tmp_path / "data", train=(("a", 6), ("b", 6)), val=(("a", 2), ("b", 2)))
    base = ["--data-path=" + data, "--input-size=32", "--batch-size=4", "--num-workers=0", "--device=cpu"]
    return lambda *words: begin_run(monkeypatch, [*base, *RECIPE, *words])[0]


def waits_of(run, parts=1):
    """Return {step: names of what read a value} of an epoch."""
    batches, found = Batches(parts), {}
    with HostWaits(lambda name: found.setdefault(batches.now, []).append(name)):
        engine.train_one_epoch(run, batches, 0)
    return found


def assert_only_printing_waits(found):
    """Only the first and the last step are printed, and there the losses are read: what this finds is found at all."""
    assert sorted(found) == [0, STEPS - 1], found


@pytest.mark.parametrize(
    "words, parts",
    [
        (FLOAT32, 1),
        (["--amp=native"], 1),
        ([*FLOAT32, "--mixup-mode=elem"], 1),
        ([*FLOAT32, "--mixup=0", "--cutmix=0"], 1),
        ([*FLOAT32, "--grad-accum-steps=2"], 2),
        ([*FLOAT32, "--virtual-ranks=2"], 2),
        ([*FLOAT32, "--model-ema-warmup", "--layer-decay=0.5"], 1),
        ([*FLOAT32, "--model=shiftvit_light_tiny"], 1),
        ([*FLOAT32, "--model=spach_xxs_patch16_224_attn", "--drop-path=0.1"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_step_reads_nothing(monkeypatch, make_run, words, parts):
    if any(word.startswith("--model=") for word in words):
        monkeypatch.setattr(build, "create_model", create_sibling)
    assert_only_printing_waits(waits_of(make_run(*words), parts))


def create_sibling(name, **options):
    """Return the ShiftViT or SPACH called `name` with few blocks."""
    few = {"depths": (1, 1)} if name.startswith("shiftvit") else {"stages": [[("attn", 1), ("mlp", 1)]]}
    return create_model(name, **dict(few, **options))


def test_a_step_with_a_loss_scale_reads_nothing(make_run):
    """The fused optimizer skips a step by itself where a gradient is not finite."""
    run = make_run("--amp=native")
    run.precision.scaler = amp._make_scaler(run.device)
    assert run.precision.scaler.is_enabled()
    assert_only_printing_waits(waits_of(run))


def test_a_step_under_ddp_reads_nothing(make_run, tmp_path):
    run = make_run(*FLOAT32)
    distributed.init_process_group("gloo", init_method="file://%s" % (tmp_path / "meeting"), rank=0, world_size=1)
    try:
        run.model = DistributedDataParallel(run.bare_model)
        assert_only_printing_waits(waits_of(run))
    finally:
        distributed.destroy_process_group()


class Reading(nn.Module):
    """A criterion that looks at its loss, in one of several ways."""

    def __init__(self, criterion, way):
        super().__init__()
        self.criterion, self.way = criterion, way

    def forward(self, inputs, outputs, targets):
        loss = self.criterion(inputs, outputs, targets)
        self.way(loss.detach())
        return loss


@pytest.mark.parametrize(
    "way",
    [
        lambda loss: loss.item(),
        lambda loss: bool(loss > 0),
        lambda loss: float(loss),
        lambda loss: "%.3f" % loss,
        lambda loss: loss.cpu(),
        lambda loss: loss.tolist(),
        lambda loss: loss.numpy(),
        lambda loss: loss.nonzero(),
        lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
        lambda loss: torch.masked_select(loss, loss > 0),
    ],
    ids=["item", "bool", "float", "format", "cpu", "tolist", "numpy", "nonzero", "mask", "masked_select"],
)
def test_a_value_that_is_read_in_a_step_is_found(make_run, way):
    run = make_run(*FLOAT32)
    run.criterion = Reading(run.criterion, way)
    assert sorted(waits_of(run)) == list(range(STEPS))


def test_a_value_that_is_read_in_the_update_is_found(monkeypatch, make_run):
    original = Run.update

    def update(run):
        next(run.bare_model.parameters()).grad.norm().item()
        original(run)

    monkeypatch.setattr(Run, "update", update)
    assert sorted(waits_of(make_run(*FLOAT32))) == list(range(STEPS))
