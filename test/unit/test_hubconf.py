"""hubconf.py: from another folder, beside modules of the same names, the models and the classifier work."""

import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from PIL import Image
from recipe import fill

import hubconf
from checkpoints import store
from commands import list_models
from runtime.compat import create_model

SCRIPT = """
import io, sys
import torch, utils, models, datasets
assert utils.MINE and models.MINE and datasets.MINE
root, weights, image = sys.argv[1:]
before, paths = dict(sys.modules), list(sys.path)
model = torch.hub.load(root, "smlpnet_tiny", source="local", num_classes=10, image_size=32).eval()
images = torch.ones(1, 3, 32, 32)
assert model(images).shape == (1, 10)
other = torch.hub.load(root, "shiftvit_light_tiny", source="local", num_classes=3)
assert other.pretrained_cfg["input_size"] == (3, 224, 224)
pickled = io.BytesIO()
torch.save(model, pickled)  # imports the model's module by its name
pickled.seek(0)
read = torch.load(pickled, weights_only=False) if hasattr(torch.serialization, "safe_globals") else torch.load(pickled)
assert torch.equal(read(images), model(images))
classifier = torch.hub.load(root, "trained", weights, source="local", device="cpu")
for top in (1, 3):
    assert len(classifier(image, top=top)) == top
assert len(classifier([image, image])) == 2 and len(classifier.class_names) == 10
assert [prediction.error for prediction in classifier.predict_files([image, "none"], workers=1)][0] is None
import utils as again, results  # the second one only now
assert again is utils is sys.modules["utils"] and again.MINE and results.MINE
assert sys.path == paths
assert all(sys.modules[name] is before[name] for name in before)
print(torch.hub.load(root, "trained", weights, source="local", device="cpu")(image, top=1)[0][0])
"""


@pytest.mark.skipif(not hasattr(torch.hub, "_load_local"), reason="this torch.hub reads no local folder")
def test_beside_modules_of_the_same_names(tmp_path):
    model = fill(create_model("smlpnet_tiny", num_classes=10, image_size=32))
    classes = ["class %d" % number for number in range(10)]
    payload = {"format": 1, "model": model.state_dict(), "classes": classes, "args": {"model": "smlpnet_tiny"}}
    store.save_as(payload, str(tmp_path / "weights.pth"))
    Image.new("RGB", (40, 30), "red").save(str(tmp_path / "a.png"))
    for name in ("utils", "models", "datasets", "results"):
        (tmp_path / (name + ".py")).write_text("MINE = True\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-W",
        "error:Overwriting:UserWarning",
        "script.py",
        ROOT,
        str(tmp_path / "weights.pth"),
        "a.png",
    ]
    environ = dict(os.environ, OMP_NUM_THREADS="1", TORCH_HOME=str(tmp_path / "hub"))
    done = subprocess.run(command, cwd=str(tmp_path), env=environ, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1] in classes


def test_the_entry_points_are_the_models_and_trained():
    """torch.hub lists whatever can be called and has a public name."""
    public = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert public == {*list_models.names(), "trained"}
