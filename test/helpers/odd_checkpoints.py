"""Checkpoints in which one entry is not what it should be."""

import argparse
import copy
import random

import torch


def nested(kind=list, depth=10**4):
    """Return lists or dictionaries within each other."""
    value = kind()
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def aliased(width=10, depth=40):
    """Return a small list of lists that takes for ever to print, compare or copy by value."""
    value = ["x"] * width
    for _ in range(depth):
        value = [value] * width
    return value


def recursive():
    """Return a list that holds itself."""
    value = []
    value.append(value)
    return value


def odd_values():
    """Return {name: function that returns what an entry may be in place of the right value}."""
    values = {
        "none": lambda: None,
        "text": lambda: "x",
        "long text": lambda: "x\n" * 10**5,
        "zero": lambda: 0,
        "negative": lambda: -5,
        "huge": lambda: 10**400,
        "large": lambda: 10**15,
        "true": lambda: True,
        "fraction": lambda: 0.5,
        "nan": lambda: float("nan"),
        "infinity": lambda: -float("inf"),
        "list": lambda: [1, "x", None],
        "empty list": lambda: [],
        "dictionary": lambda: {"x": 1, 2: []},
        "empty dictionary": lambda: {},
        "tuple": lambda: (1, 2),
        "tensor": lambda: torch.zeros(3),
        "number tensor": lambda: torch.tensor(1.0),
        "whole tensor": lambda: torch.ones(2, 2, dtype=torch.int64),
        "empty tensor": lambda: torch.zeros(0),
        "nan tensor": lambda: torch.full((2,), float("nan")),
        "expanded tensor": lambda: torch.zeros(1, 1).expand(10**7, 10**4),
        "sparse tensor": lambda: torch.zeros(2, 2).to_sparse(),
        "nested lists": nested,
        "nested dictionaries": lambda: nested(dict),
        "aliases": aliased,
        "itself": recursive,
        "namespace": lambda: argparse.Namespace(x=1),
        "size": lambda: torch.Size([1]),
    }
    if hasattr(torch, "view_as_complex"):  # torch 1.5 knows the type, but makes none
        values["complex tensor"] = lambda: torch.zeros(2, 2, dtype=torch.complex64)
    return values


def places_in(value, depth=4, most=6, path=()):
    """Yield the keys that lead to the entries of a checkpoint, to all of a dictionary but for long ones."""
    yield path
    if depth == 0 or not isinstance(value, (dict, list, tuple)):
        return
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if len(keys) > 3 * most and path:
        keys = random.Random(len(keys)).sample(keys, most)
    for key in keys:
        yield from places_in(value[key], depth - 1, most, (*path, key))


def changed(checkpoint, path, make=None):
    """Return a copy of `checkpoint` whose entry at `path` is `make()`, or is deleted."""
    made = _shallow(checkpoint)
    holder = made
    for key in path[:-1]:
        holder[key] = _shallow(holder[key])
        holder = holder[key]
    if make is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = make()
    return made


def _shallow(value):
    return list(value) if isinstance(value, tuple) else copy.copy(value)


def one_entry_changes(checkpoint, **limits):
    """Yield (description, function that returns the changed checkpoint) for each place and each odd value."""
    odd = odd_values()
    for path in places_in(checkpoint, **limits):
        if not path:
            continue
        yield "%s deleted" % (path,), lambda path=path: changed(checkpoint, path)
        for name, make in odd.items():
            yield "%s: %s" % (path, name), lambda path=path, make=make: changed(checkpoint, path, make)
        value = checkpoint
        for key in path:
            value = value[key]
        if torch.is_tensor(value):
            for name, other in (
                ("double", value.double()),
                ("whole", value.long()),
                ("one more", torch.cat([value.reshape(-1), torch.zeros(1).to(value.dtype)])),
                ("unsqueezed", value.unsqueeze(0)),
            ):
                yield "%s: %s" % (path, name), lambda path=path, other=other: changed(checkpoint, path, lambda: other)
