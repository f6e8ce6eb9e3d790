"""Findings about a data set as lines for people, each with its remedy."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from pipeline.passed_over import PassedOver
from runtime.errors import printable, shown

_IN_LINES = 10
_GROUPS = (
    ("contradictions", "the same image in two classes", "keep it in the right one alone"),
    ("leaks", "images in both train and val", "remove them from one of the two"),
    ("duplicates", "duplicate images within a split", "remove the copies unless they are meant"),
)
_CLIPPED = (
    "convert them to 8 bits first, such as by `magick OLD -depth 8 NEW`, with -auto-level where the values fill a part "
    "of their range"
)


def lines_of(findings: dict[str, Any]) -> list[str]:
    """Return the findings as lines for people."""
    lines = []
    for part in ("train", "val"):
        lines += _lines_of_part(part, findings[part], findings)
    remedy = "add images of them to val/, or remove them"
    lines += _named("classes in train only", findings["only_in_train"], remedy)
    remedy = "rename, move or remove them: a training knows the classes of train/ alone"
    lines += _named("classes in val only", findings["only_in_val"], remedy)
    for key, title, remedy in _GROUPS:
        groups = [" = ".join(shown(name) for name in group[:4]) for group in findings[key]["groups"]]
        lines += _named(title, groups, remedy, findings[key]["count"], str)
    if findings["harmful"]:
        return lines + ["This would harm a training: " + "; ".join(findings["harmful"])]
    return lines + ["Fit for training"]


def _lines_of_part(part: str, found: dict[str, Any], findings: dict[str, Any]) -> list[str]:
    def classes(pairs: Any) -> str:
        return ", ".join("%s (%d)" % (printable(name), count) for name, count in pairs)

    lines = ["%s: %d images of %d classes" % (part, found["images"], found["classes"])]
    lines.append("    smallest classes  " + classes(found["smallest_classes"]))
    lines.append("    largest classes   " + classes(found["largest_classes"]))
    for key in ("shorter_side", "longer_side"):
        if found[key]:
            lines.append("    %-17s %d to %d pixels, median %g" % ((key.replace("_", " "),) + _in_order(found[key])))
    lines.append("    below %4d pixels %d images" % (findings["input_size"], found["smaller_than_input"]))
    lines.append("    modes             " + ", ".join("%s %d" % pair for pair in found["modes"].items()))
    lines += ["    " + found[key] for key in ("only_class", "shared_folders") if found[key]]
    broken = ["%s (%s)" % (shown(one["file"]), one["reason"]) for one in found["broken"]["files"]]
    remedy = "repair or remove them, or train with --skip-bad-images"
    lines += _named("broken", broken, remedy, found["broken"]["count"], str)
    clipped = found["clipped"]
    lines += _named("images that decode to white or black", clipped["files"], _CLIPPED, clipped["count"])
    lines += _named("classes without images", found["empty_classes"], "fill or remove them")
    closed = list(found["closed_folders"].values())
    lines += _named("cannot be listed", closed, "correct their permissions or links", convert=printable)
    if found["rotated"]["count"] and not findings["exif_transpose"]:
        text = "    images with an EXIF orientation that is ignored: %d; --exif-transpose obeys it"
        lines.append(text % found["rotated"]["count"])
    return lines + _passed_over(found)


def _passed_over(found: dict[str, Any]) -> list[str]:
    lines = ["    " + line for line in PassedOver.from_dict(found["passed_over"]).lines()]
    names, count = found["no_images"]["files"], found["no_images"]["count"]
    return lines + _first(names, count, shown) if count else lines


def _in_order(sizes: dict[str, Any]) -> tuple[Any, Any, Any]:
    return sizes["min"], sizes["max"], sizes["median"]


def _named(
    title: str, names: Sequence[str], remedy: str, count: int | None = None, convert: Callable[[str], str] = shown
) -> list[str]:
    """Return a line with the `count` (of all) and the `remedy`, and one for each of the first names."""
    count = len(names) if count is None else count
    if not count:
        return []
    return ["    %s: %d; %s" % (title, count, remedy), *_first(names, count, convert)]


def _first(names: Sequence[str], count: int, convert: Callable[[str], str]) -> list[str]:
    lines = ["        " + convert(name) for name in names[:_IN_LINES]]
    return lines + (["        and %d more" % (count - _IN_LINES)] if count > _IN_LINES else [])
