"""A checkpoint for tests of predict.py."""

import pytest
from predictions import save, small

from checkpoints import weights as checkpoint_weights


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The path of a checkpoint of a small network, which models are made as."""
    monkeypatch.setattr(checkpoint_weights, "create_model", small)
    return save(tmp_path / "weights.pth")
