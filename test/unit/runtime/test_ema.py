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
