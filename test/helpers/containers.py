"""One data set in each form in which main.py takes it: class folders, lists, archives."""

import csv
import io
import json
import os
import tarfile
import zipfile

from folders import names_below


def images_of(part):
    """Return [(class, path)] of the images below the folder `part`, in the order of ImageFolder."""
    return [
        (name, path)
        for name in sorted(os.listdir(part))
        for path in sorted(names_below(os.path.join(part, name)), key=os.path.split)
    ]


def content_of(path):
    with open(path, "rb") as file:
        return file.read()


def write_list(part, path, root=None):
    """Write a list of the images of `part` in no order, paths relative to `root`, of the kind that its ending tells."""
    classes = sorted(os.listdir(part))
    rows = [(os.path.relpath(image, root or part), name) for name, image in images_of(part)][::-1]
    ending = os.path.splitext(path)[1]
    with open(path, "w", newline="") as file:
        if ending == ".jsonl":
            file.writelines(json.dumps({"path": image, "label": name}) + "\n" for image, name in rows)
        elif ending == ".txt":
            file.writelines("%s %d\n" % (image, classes.index(name)) for image, name in rows)
        else:
            table = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",")
            table.writerows([("label", "source", "path"), *((name, "camera", image) for image, name in rows)])
    return path


def write_lists(data, made, ending):
    """Write train and val lists into the folder `made`, of the images in the folders of `data`."""
    os.makedirs(made)
    for part in ("train", "val"):
        write_list(os.path.join(data, part), os.path.join(made, part + ending), made)
    if ending == ".txt":
        with open(os.path.join(made, "classes.txt"), "w") as file:
            file.writelines(name + "\n" for name in sorted(os.listdir(os.path.join(data, "train"))))


def add(archive, name, content):
    """Add a file to an open tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_tar(part, path, around=""):
    """Write a tar of class folders, the last image first."""
    with tarfile.open(path, "w") as archive:
        for _, image in images_of(part)[::-1]:
            archive.add(image, os.path.join(around, os.path.relpath(image, part)))


def write_shards(part, pattern, count=3, ending=".cls"):
    """Write `count` shards of WebDataset with the number or name of each image's class beside it."""
    classes = sorted(os.listdir(part))
    for shard in range(count):
        with tarfile.open(pattern % shard, "w") as archive:
            for name, image in images_of(part)[shard::count]:
                key = os.path.splitext(os.path.relpath(image, part))[0]
                label = str(classes.index(name)) if ending == ".cls" else json.dumps({"label": name})
                add(archive, key + os.path.splitext(image)[1], content_of(image))
                add(archive, key + ending, label.encode())


def write_tar_of_tars(part, path):
    """Write a tar that holds a tar of images for each class, as ImageNet's training images come."""
    with tarfile.open(path, "w") as archive:
        for name in sorted(os.listdir(part)):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for _, image in [pair for pair in images_of(part) if pair[0] == name]:
                    add(images, os.path.basename(image), content_of(image))
            add(archive, name + ".tar", inner.getvalue())


def write_zip(part, path, method=zipfile.ZIP_STORED):
    """Write a zip of class folders."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for _, image in images_of(part):
            archive.write(image, os.path.relpath(image, part))


def write_flat_imagenet(part, folder):
    """Write the validation images flat into ILSVRC2012_img_val.tar, and a list val.txt of their classes beside it."""
    classes = sorted(os.listdir(part))
    with tarfile.open(os.path.join(folder, "ILSVRC2012_img_val.tar"), "w") as archive, open(
        os.path.join(folder, "val.txt"), "w"
    ) as labels:
        for number, (name, image) in enumerate(images_of(part)):
            flat = "ILSVRC2012_val_%08d.JPEG" % number
            archive.add(image, flat)
            labels.write("%s %d\n" % (flat, classes.index(name)))


def _both(write):
    def make(data, made):
        os.makedirs(made)
        for part in ("train", "val"):
            write(os.path.join(data, part), made, part)

    return make


def _imagenet(data, made):
    os.makedirs(made)
    write_tar_of_tars(os.path.join(data, "train"), os.path.join(made, "ILSVRC2012_img_train.tar"))
    write_flat_imagenet(os.path.join(data, "val"), made)


def _deflated(part, path):
    write_zip(part, path, zipfile.ZIP_DEFLATED)


CONTAINERS = {  # {name: make(data, made)}, which writes what the folders of `data` hold into the new folder `made`
    "csv": lambda data, made: write_lists(data, made, ".csv"),
    "tsv": lambda data, made: write_lists(data, made, ".tsv"),
    "jsonl": lambda data, made: write_lists(data, made, ".jsonl"),
    "txt": lambda data, made: write_lists(data, made, ".txt"),
    "tar": _both(lambda part, made, name: write_tar(part, os.path.join(made, name + ".tar"))),
    "tar with a folder around": _both(
        lambda part, made, name: write_tar(part, os.path.join(made, name + ".tar"), name)
    ),
    "shards": _both(lambda part, made, name: write_shards(part, os.path.join(made, name + "-%03d.tar"))),
    "shards with names": _both(
        lambda part, made, name: write_shards(part, os.path.join(made, name + "_%d.tar"), 2, ".json")
    ),
    "tars of tars": _imagenet,
    "zip": _both(lambda part, made, name: write_zip(part, os.path.join(made, name + ".zip"))),
    "deflated zip": _both(lambda part, made, name: _deflated(part, os.path.join(made, name + ".zip"))),
}
