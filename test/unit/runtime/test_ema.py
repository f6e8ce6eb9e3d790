"""The EMA weights."""

import pytest
import torch
from torch import nn

from runtime.ema import Ema


def test_average_follows_and_restores():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.module.weight.tolist() == pytest.approx([1.1, 1.1])
    assert ema.module.running_mean.tolist() == pytest.approx([0.1, 0.1])
    assert ema.module.num_batches_tracked.item() == 0
    other = Ema(nn.BatchNorm1d(2), 0.9)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.module.weight, ema.module.weight)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


@pytest.mark.skipif(not hasattr(torch, "_foreach_mul_"), reason="this torch averages one tensor after the other")
@pytest.mark.parametrize("warms_up", [False, True])
def test_all_tensors_at_once_have_the_bits_of_one_after_the_other(monkeypatch, warms_up):
    def averages():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5))
        ema = Ema(model, 0.99996, warms_up=warms_up)
        for step in range(5):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape))
            ema.update(model, step)
        return list(ema.state_dict().values())

    at_once = averages()
    monkeypatch.delattr(torch, "_foreach_mul_")
    assert all(torch.equal(one, other) for one, other in zip(at_once, averages()))
