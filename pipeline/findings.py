"""Findings about a data set, from what was found in its images: plain numbers, for JSON, and lines for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy

from pipeline.inspection import MOST_NAMED, InspectionResult
from runtime.errors import printable, shown

_IN_LINES = 10
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


@dataclass
class Part:
    """What is known of train/ or val/."""

    images: Any  # pipeline.index.ImageIndex
    found: InspectionResult
    strangers: Sample  # files that are no images
    closed: dict[str, str]  # {class: why it cannot be listed}


def findings_of(parts: dict[str, Part], input_size: int) -> dict[str, Any]:
    """Return the findings about {"train": Part, "val": Part}; "harmful" has a line for each kind of harm."""
    names = {part: set(of.images.classes) | set(of.closed) for part, of in parts.items()}
    findings: dict[str, Any] = {part: _findings_of_part(of, input_size) for part, of in parts.items()}
    findings["only_in_train"] = sorted(names["train"] - names["val"])
    findings["only_in_val"] = sorted(names["val"] - names["train"])
    findings["leaks"], findings["duplicates"] = _equal_files(parts)
    findings["input_size"] = input_size
    findings["harmful"] = _harm_of(findings)
    return findings


def _findings_of_part(part: Part, input_size: int) -> dict[str, Any]:
    images, found = part.images, part.found
    counts = numpy.bincount(images.targets, minlength=len(images.classes)).tolist()
    ranked = sorted(zip(counts, images.classes))
    return {
        "folder": images.folder,
        "images": len(images),
        "broken": {
            "count": found.broken_count,
            "files": [{"file": _path_of(images, at), "reason": reason} for at, reason in found.first_broken.items()],
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
        "no_images": {"count": part.strangers.count, "files": sorted(part.strangers.first)},
    }


def _path_of(images: Any, number: int) -> str:
    """Return the path of an image below train/ or val/."""
    return images[number][0][len(images.folder) :].lstrip("/")


def _sizes(sides: numpy.ndarray) -> dict[str, Any] | None:
    sides = sides[sides > 0]
    if not len(sides):
        return None
    return {"min": int(sides.min()), "median": float(numpy.median(sides)), "max": int(sides.max())}


def _equal_files(parts: dict[str, Part]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return {"count", "groups"} of the groups of equal files across both parts, and of those within one."""
    numbers = {name: numpy.flatnonzero(part.found.sizes[:, 0] > 0) for name, part in parts.items()}
    digests = numpy.concatenate([parts[name].found.digests[of] for name, of in numbers.items()])
    places = numpy.concatenate([of for of in numbers.values()])
    is_val = numpy.concatenate([numpy.full(len(of), name == "val") for name, of in numbers.items()])
    order = numpy.lexsort((digests[:, 1], digests[:, 0]))
    differs = (digests[order][1:] != digests[order][:-1]).any(axis=1)
    starts = numpy.concatenate([[0], numpy.flatnonzero(differs) + 1, [len(order)]])
    leaks: dict[str, Any] = {"count": 0, "groups": []}
    duplicates: dict[str, Any] = {"count": 0, "groups": []}
    for which in numpy.flatnonzero(numpy.diff(starts) > 1).tolist():
        members = order[starts[which] : starts[which + 1]]
        group = leaks if len(set(is_val[members].tolist())) > 1 else duplicates
        group["count"] += 1
        if len(group["groups"]) < MOST_NAMED:
            named = [("val" if is_val[one] else "train", places[one]) for one in members[:MOST_NAMED].tolist()]
            group["groups"].append(sorted(part + "/" + _path_of(parts[part].images, place) for part, place in named))
    for group in (leaks, duplicates):
        group["groups"].sort()
    return leaks, duplicates


def _harm_of(findings: dict[str, Any]) -> list[str]:
    lines = []
    for part in ("train", "val"):
        found = findings[part]
        told = [
            (found["broken"]["count"], "%d broken image(s) in " + part),
            (len(found["empty_classes"]), "%d class(es) without images in " + part),
            (len(found["closed_folders"]), "%d class(es) that cannot be listed in " + part),
        ]
        lines += [form % count for count, form in told if count]
    for key, form in (("only_in_train", "%d class(es) in train only"), ("only_in_val", "%d class(es) in val only")):
        if findings[key]:
            lines.append(form % len(findings[key]))
    if findings["leaks"]["count"]:
        lines.append("%d image(s) in both train and val" % findings["leaks"]["count"])
    return lines


def lines_of(findings: dict[str, Any]) -> list[str]:
    """Return the findings as lines for people."""
    lines = []
    for part in ("train", "val"):
        lines += _lines_of_part(part, findings[part], findings["input_size"])
    lines += _named("classes in train only", findings["only_in_train"])
    lines += _named("classes in val only", findings["only_in_val"])
    for key, title in (("leaks", "images in both train and val"), ("duplicates", "duplicate images within a split")):
        groups = [" = ".join(shown(name) for name in group[:4]) for group in findings[key]["groups"]]
        lines += _named(title, groups, findings[key]["count"], str)
    if findings["harmful"]:
        return lines + ["This would harm a training: " + "; ".join(findings["harmful"])]
    return lines + ["Fit for training"]


def _lines_of_part(part: str, found: dict[str, Any], input_size: int) -> list[str]:
    def classes(pairs: Any) -> str:
        return ", ".join("%s (%d)" % (printable(name), count) for name, count in pairs)

    lines = ["%s: %d images of %d classes" % (part, found["images"], found["classes"])]
    lines.append("    smallest classes  " + classes(found["smallest_classes"]))
    lines.append("    largest classes   " + classes(found["largest_classes"]))
    for key in ("shorter_side", "longer_side"):
        if found[key]:
            lines.append("    %-17s %d to %d pixels, median %g" % ((key.replace("_", " "),) + _in_order(found[key])))
    lines.append("    below %4d pixels %d images" % (input_size, found["smaller_than_input"]))
    lines.append("    modes             " + ", ".join("%s %d" % pair for pair in found["modes"].items()))
    broken = ["%s (%s)" % (shown(one["file"]), one["reason"]) for one in found["broken"]["files"]]
    lines += _named("broken", broken, found["broken"]["count"], str)
    lines += _named("classes without images", found["empty_classes"])
    lines += _named("cannot be listed", list(found["closed_folders"].values()), convert=printable)
    return lines + _named("no images, passed over", found["no_images"]["files"], found["no_images"]["count"])


def _in_order(sizes: dict[str, Any]) -> tuple[Any, Any, Any]:
    return sizes["min"], sizes["max"], sizes["median"]


def _named(
    title: str, names: Sequence[str], count: int | None = None, convert: Callable[[str], str] = shown
) -> list[str]:
    """Return a line with the `count` (of all), and one for each of the first names."""
    count = len(names) if count is None else count
    if not count:
        return []
    lines = ["    %s: %d" % (title, count)] + ["        " + convert(name) for name in names[:_IN_LINES]]
    return lines + (["        and %d more" % (count - _IN_LINES)] if count > _IN_LINES else [])
