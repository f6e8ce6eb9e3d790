"""What the options give to a Run: every random number follows from --seed."""

import random

import numpy
import pytest
import torch
from image_folders import make_folder
from in_process import begin_run
from recipe import normal
from small_models import create_small_model

from training import build


@pytest.fixture
def with_seeds(monkeypatch, tmp_path):
    """with_seeds(see): what see(run, batches) returns for the seed 1, for 2, and for 1 again."""
    monkeypatch.setattr(build, "create_model", create_small_model)
    data = make_folder(tmp_path / "data", train=(("a", 6), ("b", 6)))
    words = ["--data-path=" + data, "--input-size=32", "--batch-size=4", "--num-workers=0", "--device=cpu"]
    return lambda see: [see(*begin_run(monkeypatch, [*words, "--seed=%d" % seed])) for seed in (1, 2, 1)]


def test_the_seed_gives_the_first_weights(with_seeds):
    first, other, again = with_seeds(lambda run, _: run.bare_model.mlp_head[0].weight.tolist())
    assert first != other and first == again


def test_the_seed_gives_the_order_of_the_images(with_seeds):
    def order(_, batches):
        return [position.index for batch in batches.batch_sampler for position in batch]

    first, other, again = with_seeds(order)
    assert first != other and first == again


def test_the_seed_gives_the_augmentation_of_an_image(with_seeds):
    def pixels(_, batches):
        place = next(iter(batches.batch_sampler))[0]
        return batches.dataset[place._replace(index=0)].pixels.bytes

    first, other, again = with_seeds(pixels)
    assert not torch.equal(first, other) and torch.equal(first, again)


def test_the_seed_gives_the_draws_of_a_step(with_seeds):
    """Those of mixup, which uses numpy, and of dropout, which uses torch."""

    def draws(run, _):
        run.seed_step(0, 0, 0)
        mixed, _ = run.mix(normal("mixup", (4, 3, 32, 32)), torch.arange(4) % 2)
        return mixed.sum().item(), random.random(), numpy.random.rand(), torch.rand(1).item()

    first, other, again = with_seeds(draws)
    assert all(one != two for one, two in zip(first, other)) and first == again
