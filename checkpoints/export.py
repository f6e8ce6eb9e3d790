"""A trained model in a form that others run, written only once it computes what torch computes here."""

import json
from collections import namedtuple

import numpy
import torch
from torch import nn

from checkpoints import weights
from pipeline.batch_bytes import IMAGENET_MEAN, IMAGENET_STD
from runtime import exporting
from runtime.errors import RunError, reason

FORMATS = ("onnx", "torchscript", "exported_program", "safetensors")
BATCH_SIZES = (1, 3)  # that the written file is tried with
TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by 1e-6 or so

Difference = namedtuple("Difference", "largest allowed")


class Deployed(nn.Module):
    """The model with what comes before and after it.

    Takes normalised float32 images (B, 3, S, S), or with `preprocesses` uint8 RGB; gives logits (B, classes), or with
    `softmaxes` probabilities.
    """

    def __init__(self, model, preprocesses, softmaxes):
        super().__init__()
        self.model, self.preprocesses, self.softmaxes = model, preprocesses, softmaxes
        if preprocesses:
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    @property
    def names(self):
        """Of the input and of the output."""
        return ["images", "probabilities" if self.softmaxes else "logits"]

    def forward(self, images):
        if self.preprocesses:
            images = (images.float() / 255 - self.mean) / self.std
        outputs = self.model(images)
        return torch.softmax(outputs, dim=1) if self.softmaxes else outputs

    def example(self, batch, size):
        """Images (batch, 3, size, size) as the module takes them, always the same."""
        values = numpy.random.RandomState(batch).randint(0, 256, (batch, 3, size, size)).astype(numpy.uint8)
        images = torch.from_numpy(values)
        return images if self.preprocesses else Deployed(nn.Identity(), True, False)(images)


def metadata_of(network, module):
    """What the file says of itself: {name: text, number or list}."""
    said = {
        "model": network.found["model"],
        "classes": network.classes,
        "input_size": network.found["size"],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "input": "uint8 RGB, 0 to 255" if module.preprocesses else "float32 RGB, (value / 255 - mean) / std",
        "output": module.names[1],
    }
    if "token_layout" in network.found["keywords"]:
        said["token_layout"] = network.found["keywords"]["token_layout"]
    return said


def write(path, kind, network, module, opset=None):
    """Write the file of one of the FORMATS and compare it with `module`: the Difference, None for safetensors.

    RunError where it does not compute the same; the file is then to be deleted.
    """
    if kind == "safetensors":
        return _write_weights(path, network)
    metadata = metadata_of(network, module)
    images = module.example(2, network.found["size"])
    if kind == "onnx":
        data, load = _onnx_file(module, images, metadata, opset), _load_onnx
    else:
        make, load = {
            "torchscript": (exporting.script_file, exporting.load_script),
            "exported_program": (exporting.program_file, exporting.load_program),
        }[kind]
        data = make(module, images, json.dumps(metadata))
    with open(path, "wb") as file:
        file.write(data)
    with open(path, "rb") as file:
        written, said = load(file.read())
    if said != (_as_texts(metadata) if kind == "onnx" else json.dumps(metadata)):
        raise RunError("what the file says of itself is not what was written")
    return compare(module, written, network.found["size"])


def _as_texts(metadata):
    """ONNX keeps texts alone: all others as JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}


def _onnx_file(module, images, metadata, opset):
    model = exporting.onnx_model(module, images, module.names, opset)
    for graph in [model.graph, *getattr(model, "functions", [])]:
        for node in graph.node:
            node.doc_string = ""  # it tells where the source lies on this machine, as the metadata of newer files do
            if hasattr(node, "metadata_props"):
                del node.metadata_props[:]
    del model.metadata_props[:]
    for name, text in _as_texts(metadata).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    exporting.need("onnx", "--format onnx").checker.check_model(model)
    return model.SerializeToString()


def _load_onnx(data):
    run, said = exporting.onnx_runner(data, torch.get_num_threads())
    return lambda images: torch.from_numpy(run(images.numpy())), said


def _write_weights(path, network):
    weights.save_safetensors(path, weights.copied(network.weights), weights.known_of(network.found, network.loaded))
    written = weights.read(path)["model"]
    if sorted(written) != sorted(network.weights):
        raise RunError("the names of the weights are not those that were written")
    for name, value in network.weights.items():
        other = written[name]
        same = other.dtype == value.dtype and other.shape == value.shape
        if not same or not ((other == value) | ((other != other) & (value != value))).all():  # NaN is not itself
            raise RunError("%s differs from what was written" % name)


@torch.no_grad()
def compare(module, written, size):
    """The Difference between the outputs of `module` and those of the function `written`, at each of BATCH_SIZES;
    RunError where it is too large."""
    largest, scale = 0.0, 0.0
    for batch in BATCH_SIZES:
        images = module.example(batch, size)
        expected = module(images)
        if not torch.isfinite(expected).all():
            raise RunError("the outputs of the model are not finite: there is nothing to compare")
        try:
            outputs = written(images)
        except Exception as error:  # a runtime raises its own classes
            raise RunError("what was written fails at batch size %d: %s" % (batch, reason(error))) from None
        if outputs.shape != expected.shape:
            raise RunError("what was written gives %s for %s" % (tuple(outputs.shape), tuple(expected.shape)))
        difference = (outputs - expected).abs().max().item()
        largest = max(largest, difference if difference == difference else float("inf"))
        scale = max(scale, expected.abs().max().item())
    allowed = TOLERANCE * scale
    if largest > allowed:
        message = "what was written differs from torch by %.3g, more than the %.3g allowed"
        raise RunError(message % (largest, allowed))
    return Difference(largest, allowed)
