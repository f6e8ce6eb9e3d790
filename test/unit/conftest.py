"""Fixtures of the unit tests."""

import signal

import pytest
from image_folders import make_folder
from object_store import object_store, object_store_server
from small_models import create_small_model

import main
from training import build

__all__ = ["object_store", "object_store_server"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """main.main on a small network and folder: small(*options) -> exit status."""
    monkeypatch.setattr(build, "create_model", create_small_model)
    data = make_folder(tmp_path / "data", train=(("a", 6), ("b", 6)), val=(("a", 2), ("b", 3)))
    base = ["--data-path=" + data, "--input-size=32", "--batch-size=4", "--no-repeated-aug", "--num-workers=0"]
    base += ["--device=cpu", "--amp=none", "--drop=0.1", "--drop-path=0.1", "--lr=0.1", "--warmup-epochs=1"]
    return lambda *words: main.main(base + ["--epochs=3", "--model-ema-decay=0.9"] + list(words))


@pytest.fixture
def no_hang():
    """Fail a test that waits for ever."""

    def fail(number, frame):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
