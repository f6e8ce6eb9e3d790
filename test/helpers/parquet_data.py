"""Parquet files of images, for tests; pyarrow is imported by the functions, which a test calls where it is there."""

import json
import os

import pytest
from containers import content_of, images_of

from pipeline import sources
from pipeline.parquet_listing import list_parquet

CLASSES = 4  # of the files whose rows hold `content`


def need_pyarrow():
    """Skip a test module where pyarrow is missing."""
    pytest.importorskip("pyarrow.parquet", reason="NOT CHECKED: Parquet, without pyarrow")


def images_column(contents, is_struct=True):
    """Return the column image of the bytes `contents`, as Hugging Face has it or plain."""
    import pyarrow

    if not is_struct:
        return pyarrow.array(contents, pyarrow.binary())
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": content, "path": "%d.jpg" % number} for number, content in enumerate(contents)]
    return pyarrow.array(rows, kind)


def write_parquet(path, contents, labels, group=10, names=None, is_struct=True, **more):
    """Write a file with the columns image and label in row groups of `group` rows, `names` as those of a ClassLabel."""
    import pyarrow
    from pyarrow import parquet

    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    table = pyarrow.table({"image": images_column(contents, is_struct), "label": labels, "other": [0] * len(contents)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, str(path), row_group_size=group, **more)
    return str(path)


def write_parquet_folder(data, made, group=5):
    """Write what the class folders of `data` hold into train and val files in the folder `made`, in the same order."""
    for part in ("train", "val"):
        classes = sorted(os.listdir(os.path.join(data, part)))
        images = images_of(os.path.join(data, part))
        labels = [classes.index(name) for name, _ in images]
        path = os.path.join(made, "data", part + "-00000-of-00001.parquet")
        write_parquet(path, [content_of(image) for _, image in images], labels, group, classes)
    return made


def content(number):
    """Return what stands for the image of a row."""
    return b"image %d" % number


def source_of(*paths, part="train"):
    """Return the Source of Parquet files."""
    return sources.Source("parquet", part, str(paths[0]), tuple(str(path) for path in paths))


def listed(source, classes=None):
    """Return the images of a source; `classes` are those that its labels mean, where it does not name them."""
    return list_parquet(source, classes)
