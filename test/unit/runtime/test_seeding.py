"""Seeds as a function of position."""

import torch

from runtime import seeding


def test_position_seeds():
    seeds = {
        seeding.position_seed("sample", 0, epoch, rank, place)
        for epoch in range(9)
        for rank in range(9)
        for place in range(9)
    }
    assert len(seeds) == 9**3
    assert seeding.position_seed("sample", 1, 2) != seeding.position_seed("step", 1, 2)
    assert seeding.position_seed("sample", 1, 2) == seeding.position_seed("sample", 1, 2)
    seeding.seed_host(5)
    first = torch.rand(1)
    seeding.seed_host(5)
    assert torch.equal(torch.rand(1), first)
