"""`--list-models`: the models, how large they are, and what their authors publish of them, without importing torch."""

from __future__ import annotations

import json
import os
from typing import Any, Iterator

SIDE = 224
# For each model its parameters with 1000 classes, its multiply-adds for an image of SIDE x SIDE pixels, and, where the
# authors publish them (github.com/microsoft/SPACH), Acc@1 on ImageNet in percent and 10**9 multiply-adds.
SIZES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models", "sizes.json")


def sizes() -> dict[str, dict[str, Any]]:
    """Return the table of models/sizes.json by model name."""
    with open(SIZES, encoding="utf-8") as file:
        return json.load(file)


def names() -> list[str]:
    """Return the names of this project's models."""
    return list(sizes())


def lines() -> Iterator[str]:
    """Yield the lines of the table."""
    head = ("model", "parameters", "GFLOPs", "pixels", "published Acc@1", "GFLOPs")
    yield "%-30s %12s %7s %7s %16s %7s" % head
    for name, row in sizes().items():
        counted = "%.2f" % (row["multiply_adds"] / 1e9)
        published = (row.get("published_acc1", "-"), row.get("published_gflops", "-"))
        yield "%-30s %12s %7s %7d %16s %7s" % (name, "{:,}".format(row["parameters"]), counted, SIDE, *published)
    yield "GFLOPs are 10**9 multiply-adds of one image, as publications count them; --input-size gives other sizes."
