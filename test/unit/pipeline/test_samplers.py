"""Which images each rank sees, against the reference's lists, and beyond what the reference can do."""

import pytest
from recipe import golden

from pipeline.samplers import EvalShard, PositionBatches, RASampler, ShardBatches

GOLDEN = golden("components")["ra_sampler"]


def draws(length, replicas, rank, epoch, **options):
    sampler = RASampler(range(length), replicas, rank, **options)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return indices


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: "%d ranks, epoch %d" % (run["replicas"], run["epoch"]))
def test_repeated_augmentation(run):
    seen = set()
    for want in run["ranks"]:
        indices = draws(1000, run["replicas"], want["rank"], run["epoch"])
        assert indices[:32] == want["first32"]
        assert (len(indices), sum(indices)) == (want["len"], want["sum"])
        seen.update(indices)
    assert len(seen) == run["distinct_images_over_all_ranks"]


def test_without_shuffling():
    want = GOLDEN["no_shuffle_2_replicas_rank_1_first12"]
    assert draws(1000, 2, 1, 0, shuffle=False)[:12] == want


def test_published_lengths():
    for length, by_replicas in GOLDEN["lengths"].items():
        for replicas, want in by_replicas.items():
            if int(length) >= 256:  # below, the reference has none at all
                assert len(RASampler(range(int(length)), int(replicas), 0)) == want


@pytest.mark.parametrize("want", GOLDEN["distributed_sampler_no_repeated_aug"])
def test_without_repetition(want):
    indices = draws(1000, want["replicas"], want["rank"], want["epoch"], repeats=1)
    assert len(indices) == want["len"]
    assert indices[:16] == want["first16"]


@pytest.mark.parametrize("length", [1, 2, 5, 100, 255, 256, 300])
@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_any_size_gives_every_rank_the_same_number(length, replicas):
    lengths = {len(draws(length, replicas, rank, 0)) for rank in range(replicas)}
    assert len(lengths) == 1 and lengths.pop() >= 1


def test_one_process_gets_a_new_order_each_epoch():
    orders = [tuple(draws(300, 1, 0, epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert len(set().union(*orders)) > len(set(orders[0]))


def test_seeds_give_other_orders():
    assert draws(300, 1, 0, 5, seed=1) == draws(300, 1, 0, 5 + 1000003, seed=0)
    assert draws(300, 1, 0, 5, seed=1) != draws(300, 1, 0, 5, seed=2)


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_evaluation_shards_cover_every_image_once(replicas):
    shards = [list(EvalShard(10, replicas, rank)) for rank in range(replicas)]
    assert sorted(sum(shards, [])) == list(range(10))
    assert [len(EvalShard(10, replicas, rank)) for rank in range(replicas)] == [len(shard) for shard in shards]


def test_batches_go_on_from_any_step():
    def batches(epoch, step):
        loader = PositionBatches([RASampler(range(20), 2, 1, seed=3)], 3)
        loader.set_epoch(epoch)
        loader.first_batch = step
        return list(loader)

    whole = batches(4, 0)
    assert len(whole) == 10 // 3 and all(len(batch) == 3 for batch in whole)
    assert batches(4, 2) == whole[2:]
    keys = [position.key for batch in whole for position in batch]
    assert keys == [(3, 4, 1, place) for place in range(9)]
    assert [position.index for batch in whole for position in batch] == draws(20, 2, 1, 4, seed=3)[:9]


def test_virtual_ranks_take_turns_in_each_step():
    samplers = [RASampler(range(20), 4, rank, repeats=1) for rank in (2, 3)]
    order = PositionBatches(samplers, 2)
    order.set_epoch(1)
    assert len(order) == 4
    keys = [[position.key[2:] for position in batch] for batch in order]
    assert keys == [[(2, 0), (2, 1)], [(3, 0), (3, 1)], [(2, 2), (2, 3)], [(3, 2), (3, 3)]]
    indices = [position.index for batch in list(order)[2:3] for position in batch]
    assert order.indices_of(1, 2) == indices and order.indices_of(1, 0) != indices


def test_evaluation_resumes_at_any_batch():
    order = ShardBatches(type("Shard", (list,), {"indices": property(list)})(range(7)), 3)
    assert len(order) == 3 and list(order) == [[0, 1, 2], [3, 4, 5], [6]]
    order.first_batch = 2
    assert list(order) == [[6]]
