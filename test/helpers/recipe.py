"""The golden numbers' recipe: weights and inputs drawn from numpy by name, so that no file of weights is needed; and
the comparison of logits with them."""

import hashlib
import json
import math
import os
import zlib

import numpy
import torch
from paths import GOLDEN

import models  # noqa: F401 - registers the models with timm
from runtime import compiling
from runtime.compat import Mixup, create_model

# The correct code shows about 2e-6 of the logits' standard deviation on today's torch; older ones sum in other orders.
MAIN_STACK = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 0)
LOGIT_TOLERANCE = 1e-5 if MAIN_STACK else 1e-4
WAYS = ["contiguous", "channels_last"] + ["compiled"] * hasattr(torch, "compile")


def golden(name):
    """The contents of test/golden/<name>.json."""
    with open(os.path.join(GOLDEN, name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def generator(name):
    """The numpy generator of the array called `name`."""
    return numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode())))


def normal(name, shape):
    """A float32 tensor of standard normals, drawn in float64."""
    return torch.from_numpy(generator(name).standard_normal(tuple(shape)).astype(numpy.float32))


def batch(index):
    """The trajectory's batch: images (8, 3, 32, 32) and targets (8,)."""
    source = generator("batch%d" % index)
    images = source.standard_normal((8, 3, 32, 32)).astype(numpy.float32)
    return torch.from_numpy(images), torch.from_numpy(source.integers(0, 10, size=8))


def small_mixup(mode):
    """Return the mixing of the golden calls."""
    return Mixup(0.8, 1.0, prob=1, switch_prob=0.5, mode=mode, label_smoothing=0.1, num_classes=10)


def _values(name, shape):
    last = name.split(".")[-1]
    source = generator(name)
    if last == "running_var":
        return 0.5 + source.random(shape)
    draws = source.standard_normal(shape)
    if last == "running_mean" or last.startswith("gamma_"):
        return 0.1 * draws
    if last == "bias":
        return 0.02 * draws
    if last == "weight" and len(shape) == 1:
        return 1 + 0.1 * draws
    return draws * (1 / math.sqrt(numpy.prod(shape[1:])))


def fill(model):
    """Give `model` the recipe's weights and return it in evaluation mode."""
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            values = _values(name, tuple(tensor.shape)).astype(numpy.float32)
            state[name] = torch.from_numpy(numpy.array(values))
        else:
            state[name] = torch.zeros_like(tensor)
    model.load_state_dict(state)
    return model.eval()


def weights_sha256(model):
    """The digest of every floating-point entry's bytes, in order."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def names_shapes_sha256(model):
    """The digest of the state_dict's names and shapes, in order."""
    rows = ["%s:%s" % (name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def made(way, name, **keywords):
    """The model with the recipe's weights, computed in one of the WAYS."""
    model = fill(create_model(name, **keywords))
    if way == "compiled":
        compiling.compile_blocks(model, "on")
    return model


def laid(way, images):
    """`images` in the memory format of the way."""
    return images if way == "contiguous" else images.contiguous(memory_format=torch.channels_last)


def check_logits(logits, expected):
    """Compare (B, classes) logits with the recorded summary of each row."""
    for row, want in zip(logits.double().numpy(), expected):
        tolerance = LOGIT_TOLERANCE * want["std"]
        numpy.testing.assert_allclose(row[:8], want["first8"], rtol=0, atol=tolerance)
        assert abs(row.sum() - want["sum"]) < 1000 * tolerance
        assert abs(row.std() - want["std"]) < tolerance
        assert abs(row.max() - want["max"]) < tolerance
        assert abs(row.min() - want["min"]) < tolerance
        assert row.argmax() == want["argmax"]
