"""Findings about a data set, from what was found in its images: plain numbers, for JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Sequence

import numpy

from pipeline.decoding import Decoding
from pipeline.inspection import MOST_NAMED, InspectionResult, Numbers
from pipeline.layout import only_class_line, shared_folders_line

_CLASSES_SHOWN = 3


class Sample:
    """Names: all are counted, the first MOST_NAMED are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < MOST_NAMED:
            self.first.append(name)

    def add_all(self, folder: str, names: Sequence[str], decoding: Decoding) -> None:
        """Add those files in `folder` that are no images."""
        for name in names:
            if not name.lower().endswith(decoding.endings):
                self.add(os.path.join(folder, name))


@dataclass
class Part:
    """What is known of train/ or val/."""

    images: Any  # pipeline.index.ImageIndex
    found: InspectionResult
    strangers: Sample  # files in class folders, or beside them, that are no images
    closed: dict[str, str]  # {class: why it cannot be listed}


def findings_of(parts: dict[str, Part], input_size: int, decoding: Decoding) -> dict[str, Any]:
    """Return the findings about {"train": Part, "val": Part}; "harmful" has a line for each kind of harm."""
    names = {part: set(of.images.classes) | set(of.closed) for part, of in parts.items()}
    findings: dict[str, Any] = {part: _findings_of_part(of, input_size) for part, of in parts.items()}
    findings["only_in_train"] = sorted(names["train"] - names["val"])
    findings["only_in_val"] = sorted(names["val"] - names["train"])
    findings.update(_equal_images(parts), input_size=input_size, exif_transpose=decoding.exif_transpose)
    findings["harmful"] = _harm_of(findings)
    return findings


def _findings_of_part(part: Part, input_size: int) -> dict[str, Any]:
    images, found = part.images, part.found
    counts = numpy.bincount(images.targets, minlength=len(images.classes)).tolist()
    ranked = sorted(zip(counts, images.classes))
    return {
        "folder": images.place,
        "images": len(images),
        "broken": {
            "count": found.broken_count,
            "files": [{"file": images.name_of(at), "reason": reason} for at, reason in found.first_broken.items()],
        },
        "classes": len(images.classes),
        "empty_classes": [name for count, name in ranked if count == 0],
        "smallest_classes": [[name, count] for count, name in ranked[:_CLASSES_SHOWN]],
        "largest_classes": [[name, count] for count, name in reversed(ranked[-_CLASSES_SHOWN:])],
        "closed_folders": part.closed,
        "shorter_side": _sizes(found.sizes.min(axis=1)),
        "longer_side": _sizes(found.sizes.max(axis=1)),
        "smaller_than_input": int(((found.sizes.min(axis=1) < input_size) & (found.sizes[:, 0] > 0)).sum()),
        "modes": dict(sorted(found.modes.items(), key=lambda pair: (-pair[1], pair[0]))),
        "rotated": _named(images, found.rotated),
        "clipped": _named(images, found.clipped),
        "no_images": {"count": part.strangers.count, "files": sorted(part.strangers.first)},
        "passed_over": images.passed_over.as_dict(),
        "only_class": only_class_line(images.place, images.classes),
        "shared_folders": _shared_folders_of(images),
    }


def _named(images: Any, numbers: Numbers) -> dict[str, Any]:
    return {"count": numbers.count, "files": [images.name_of(number) for number in numbers.first]}


def _shared_folders_of(images: Any) -> str | None:
    if images.nested < len(images) or len(images.classes) < 2:
        return None
    return shared_folders_line(images.place, images.classes)


def _sizes(sides: numpy.ndarray) -> dict[str, Any] | None:
    sides = sides[sides > 0]
    if not len(sides):
        return None
    return {"min": int(sides.min()), "median": float(numpy.median(sides)), "max": int(sides.max())}


def _equal_images(parts: dict[str, Part]) -> dict[str, Any]:
    """Return {"count", "groups"} of the groups of equal images of each kind, under these names.

    "contradictions" are in different classes, "leaks" in both parts, "duplicates" in one class of one part.
    """
    numbers = {name: numpy.flatnonzero(part.found.sizes[:, 0] > 0) for name, part in parts.items()}
    digests = numpy.concatenate([parts[name].found.digests[of] for name, of in numbers.items()])
    places = numpy.concatenate([of for of in numbers.values()])
    is_val = numpy.concatenate([numpy.full(len(of), name == "val") for name, of in numbers.items()])
    order = numpy.lexsort((digests[:, 1], digests[:, 0]))
    differs = (digests[order][1:] != digests[order][:-1]).any(axis=1)
    starts = numpy.concatenate([[0], numpy.flatnonzero(differs) + 1, [len(order)]])
    groups: dict[str, Any] = {name: {"count": 0, "groups": []} for name in ("contradictions", "leaks", "duplicates")}
    for which in numpy.flatnonzero(numpy.diff(starts) > 1).tolist():
        members = order[starts[which] : starts[which + 1]].tolist()
        files = [("val" if is_val[one] else "train", places[one]) for one in members]
        names = sorted(part + "/" + parts[part].images.name_of(place) for part, place in files[:MOST_NAMED])
        classes = {_class_of(parts[part].images, place) for part, place in files}
        kinds = []
        if len(classes) > 1:
            kinds.append("contradictions")
        if len({part for part, _ in files}) > 1:
            kinds.append("leaks")
        for kind in kinds or ["duplicates"]:
            groups[kind]["count"] += 1
            if len(groups[kind]["groups"]) < MOST_NAMED:
                groups[kind]["groups"].append(names)
    for group in groups.values():
        group["groups"].sort()
    return groups


def _class_of(images: Any, number: int) -> str:
    return images.classes[images.targets[number]]


def _harm_of(findings: dict[str, Any]) -> list[str]:
    lines = []
    for part in ("train", "val"):
        found = findings[part]
        told = [
            (found["broken"]["count"], "%d broken image(s) in " + part),
            (found["clipped"]["count"], "%d image(s) that decode to white or black in " + part),
            (len(found["empty_classes"]), "%d class(es) without images in " + part),
            (len(found["closed_folders"]), "%d class(es) that cannot be listed in " + part),
        ]
        lines += [form % count for count, form in told if count]
    if findings["train"]["only_class"]:
        lines.append("one class alone in train")
    told = [
        (len(findings["only_in_train"]), "%d class(es) in train only"),
        (len(findings["only_in_val"]), "%d class(es) in val only"),
        (findings["leaks"]["count"], "%d image(s) in both train and val"),
        (findings["contradictions"]["count"], "%d image(s) in two classes"),
    ]
    return lines + [form % count for count, form in told if count]
