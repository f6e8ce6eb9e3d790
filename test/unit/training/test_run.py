"""The state of a Run: a resumed run keeps what its optimizer has learnt, under its own settings."""

import pytest
from image_folders import make_folder
from in_process import begin_run
from small_models import create_tiny_model

import main
from training import build

RESUMED = [
    ("weight_decay", "--weight-decay=0.1", "--weight-decay=0.3", []),
    ("betas", "--opt-betas 0.9 0.99", "--opt-betas 0.5 0.6", []),
    ("eps", "--opt-eps=1e-3", "--opt-eps=1e-2", []),
    ("momentum", "--momentum=0.9", "--momentum=0.5", ["--opt=momentum"]),
    ("layer_scale", "--layer-decay=0.5", "--layer-decay=0.25", []),
]


@pytest.mark.parametrize("name, before, now, both", RESUMED, ids=[row[0] for row in RESUMED])
def test_a_resumed_run_takes_its_own_settings(monkeypatch, tmp_path, name, before, now, both):
    monkeypatch.setattr(build, "create_model", create_tiny_model)
    data = make_folder(tmp_path / "data")
    base = ["--data-path=" + data, "--input-size=32", "--batch-size=2", "--num-workers=0", "--device=cpu", *both]
    folder = "--output-dir=%s" % (tmp_path / "out")

    def settings(*words):
        return [group[name] for group in begin_run(monkeypatch, [*base, *words])[0].optimizer.param_groups]

    assert main.main([*base, *before.split(), folder, "--epochs=1"]) == 0
    earlier, own = settings(*before.split()), settings(*now.split())
    assert settings(*now.split(), folder, "--epochs=2") == own != earlier
