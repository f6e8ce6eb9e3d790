"""--balanced-sampling: how often each class and each image is shown, as a function of the position alone."""

import types

import numpy
import pytest

from pipeline.balancing import BalancedClasses, BalancedSampler, _quotas
from pipeline.block_sampler import samplers_of
from pipeline.samplers import RASampler

TARGETS = numpy.repeat([0, 1, 3], [90, 9, 1]).astype(numpy.int32)  # class 2 has no image


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler.indices()


@pytest.mark.parametrize("balance, want", [(0.0, [90, 9, 0, 1]), (0.5, [70, 22, 0, 8]), (1.0, [33, 33, 0, 34])])
def test_classes_are_shown_in_proportion_to_a_power_of_their_images(balance, want):
    quotas = _quotas(numpy.bincount(TARGETS), balance)
    assert quotas.sum() == 100 and numpy.abs(quotas - want).max() <= 1
    shown = epoch_of(BalancedSampler(BalancedClasses(TARGETS, balance, 0), repeats=1), 0)
    assert numpy.bincount(TARGETS[shown], minlength=4).tolist() == quotas.tolist()


@pytest.mark.parametrize("counts", [[1, 1], [1, 10**6], [3] * 1000, [1] * 999 + [5], [0, 7]])
@pytest.mark.parametrize("balance", [0.1, 0.5, 0.9, 1.0])
def test_an_epoch_has_as_many_images_as_there_are_and_every_class(counts, balance):
    quotas = _quotas(numpy.array(counts), balance)
    assert quotas.sum() == sum(counts) and ((quotas > 0) == (numpy.array(counts) > 0)).all()


def test_images_of_a_class_are_shown_equally_often():
    shown = epoch_of(BalancedSampler(BalancedClasses(TARGETS, 1.0, 0), repeats=1), 3)
    times = numpy.bincount(shown, minlength=100)
    for number in (0, 1, 3):
        of_class = times[numpy.flatnonzero(numpy.equal(TARGETS, number))]
        assert of_class.max() - of_class.min() <= 1


def test_a_frequent_class_shows_other_images_each_epoch():
    sampler = BalancedSampler(BalancedClasses(TARGETS, 1.0, 0), repeats=1)
    seen = [{image for image in epoch_of(sampler, epoch).tolist() if image < 90} for epoch in range(8)]
    assert len(seen[0]) <= 34 and len(set.union(*seen)) > 80


def test_the_order_is_a_function_of_seed_epoch_and_rank():
    def made(seed, ranks=2):
        classes = BalancedClasses(TARGETS, 0.7, seed)
        return [BalancedSampler(classes, ranks, rank, repeats=3) for rank in range(ranks)]

    first, again = made(5), made(5)
    wanted = [epoch_of(sampler, epoch).tolist() for epoch in (0, 1, 2) for sampler in first]
    assert wanted == [epoch_of(again[number % 2], number // 2).tolist() for number in range(6)]
    assert [epoch_of(again[1], 1).tolist(), epoch_of(again[0], 0).tolist()] == [wanted[3], wanted[0]]  # in any order
    assert epoch_of(made(6)[0], 0).tolist() != wanted[0]
    assert first[0].for_rank(1).indices(3, 4).tolist() == epoch_of(first[1], 2)[3:7].tolist()


def test_without_balance_the_sampler_is_the_published_one():
    (sampler,) = samplers_of(types.SimpleNamespace(images=range(100)), 1, [0], 0, 3)
    assert type(sampler) is RASampler
