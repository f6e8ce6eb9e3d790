"""Batches for loader processes that each read whole blocks."""

import random

import pytest

from pipeline.lanes import LaneBatches, in_order


def random_blocks(draw):
    """(number of images, blocks of some of them)."""
    blocks, place = [], 0
    for _ in range(draw.randrange(12)):
        place += draw.choice([0, 0, 0, 5, 40])
        blocks.append(range(place, place + draw.choice([0, 1, 3, 10, 100])))
        place = blocks[-1].stop
    return place + draw.choice([0, 7]), blocks


@pytest.mark.parametrize("lanes", [0, 1, 2, 3, 10])
def test_each_block_is_of_one_process_and_each_image_comes_once_in_order(lanes):
    draw = random.Random(lanes)
    for _ in range(200):
        count, blocks = random_blocks(draw)
        order = LaneBatches(count, blocks, 8, lanes)
        assert len(order) == len(list(order)) == len(order.ranges)
        assert sorted(number for batch in order for number in batch) == list(range(count))
        assert all(len(batch) <= 8 for batch in order)
        lane_of = {number: turn % max(1, lanes) for turn, batch in enumerate(order) for number in batch}
        assert all(len({lane_of[number] for number in block}) <= 1 for block in blocks)
        assert list(in_order((numbers, list(numbers)) for numbers in order.ranges)) == list(range(count))
        order.first_batch = 3
        assert list(order) == [list(numbers) for numbers in order.ranges[3:]]


def test_images_without_blocks_are_batches_in_a_row():
    assert LaneBatches(20, [], 8, 3).ranges == [range(8), range(8, 16), range(16, 20)]
    assert list(LaneBatches(0, [], 8, 3)) == []


def test_small_blocks_share_a_batch():
    blocks = [range(first, first + 3) for first in range(0, 30, 3)]
    assert LaneBatches(30, blocks, 8, 1).ranges == [range(first, first + 6) for first in range(0, 30, 6)]


def test_few_results_wait_for_others():
    blocks = [range(first, first + 100) for first in range(0, 2000, 100)]
    taken = []

    def found():
        for numbers in LaneBatches(2000, blocks, 25, 4).ranges:
            taken.extend(numbers)
            yield numbers, list(numbers)

    for number in in_order(found()):
        assert len(taken) - number <= 400
