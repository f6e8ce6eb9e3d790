"""predict.py on a small network: its checkpoints, images, and what it prints."""

import json

import odd_pictures
import torch
from recipe import fill

import predict
from checkpoints import store
from models.smlp import sMLPNet

DIGITS = [str(digit) for digit in range(10)]


def small(name, **words):
    """A small network in the place of smlpnet_tiny."""
    keep = ("image_size", "num_classes", "token_layout")
    return sMLPNet(dim=8, depths=(1, 1, 2, 1), **{key: value for key, value in words.items() if key in keep})


def save(path, scale=1.0, classes=DIGITS, make=small):
    """A checkpoint of random weights, the last layer's times `scale`, with other EMA weights; its path."""
    model = fill(make("smlpnet_tiny", num_classes=10, image_size=32))
    state = model.state_dict()
    state["mlp_head.0.weight"] *= 0.05 * scale
    ema = dict(state, **{"mlp_head.0.bias": state["mlp_head.0.bias"] + torch.arange(10.0)})
    payload = {"format": 1, "model": state, "model_ema": ema, "args": {"model": "smlpnet_tiny", "input_size": 32}}
    store.save_as(dict(payload, classes=classes) if classes else payload, str(path))
    return str(path)


def make_image(path, seed=0, side=32):
    odd_pictures.pixels(side, side, seed).save(str(path), "PNG")
    return str(path)


def predicted(capsys, *words, status=0):
    """The objects of `--json`, and stderr."""
    assert predict.main(["--json", "--device=cpu", *words]) == status
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err
