"""Which files are images, and how they are decoded: EXIF orientations, formats that need a library, checkpoints."""

import os
import sys
import types

import numpy
import pytest
from fast_loader import with_libraries
from image_folders import make_folder
from loaders import load
from odd_pictures import decodable, encoded, pixels, write
from PIL import Image

from checkpoints import loading, store
from pipeline import decoding, fast_reading, reading
from pipeline.decoding import Decoding
from runtime.errors import UserError
from utils import open_regular

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def smooth(width=40, height=24):
    """A picture without symmetry that JPEG keeps nearly as it is."""
    x, y = numpy.meshgrid(numpy.arange(width), numpy.arange(height))
    return Image.fromarray(numpy.stack([4 * x, 8 * y, 2 * x + 3 * y], axis=2).astype("uint8"))


# What a camera stores for an upright scene, by the EXIF orientation that it notes beside it.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene.transpose(Image.FLIP_LEFT_RIGHT),
    3: lambda scene: scene.transpose(Image.ROTATE_180),
    4: lambda scene: scene.transpose(Image.FLIP_TOP_BOTTOM),
    5: lambda scene: scene.transpose(Image.TRANSPOSE),
    6: lambda scene: scene.transpose(Image.ROTATE_90),
    7: lambda scene: scene.transpose(Image.TRANSVERSE),
    8: lambda scene: scene.transpose(Image.ROTATE_270),
}


def write_photo(path, orientation, kind="JPEG", **more):
    """Write a photo of the upright scene `smooth()`, with that EXIF orientation."""
    exif = Image.Exif()
    exif[0x112] = orientation
    STORED.get(orientation, STORED[1])(smooth()).save(str(path), kind, exif=exif.tobytes(), **more)
    return str(path)


def distance(pixels, scene):
    """The largest difference of two pictures; 255 for different sizes."""
    one, other = numpy.asarray(pixels).astype(int), numpy.asarray(scene).astype(int)
    return abs(one - other).max() if one.shape == other.shape else 255


@pytest.mark.parametrize("decode", [reading.decode, pytest.param(fast_reading.decode_pixels, marks=with_libraries)])
@pytest.mark.parametrize("orientation", [*STORED, 0, 9])
def test_a_photo_is_upright_where_its_orientation_is_obeyed(tmp_path, decode, orientation):
    path = write_photo(tmp_path / "x.jpg", orientation, quality=95, subsampling=0)
    with open_regular(path) as file:
        assert distance(decode(file, exif_transpose=True), smooth()) < 20
    with open_regular(path) as file:
        is_plain = orientation not in range(2, 9)
        assert (distance(decode(file), smooth()) < 20) == is_plain  # as published


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_other_formats_have_orientations_too(tmp_path, kind):
    path = write_photo(tmp_path / "x", 6, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert distance(reading.read_image(path, exif_transpose=True), smooth()) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decode", [reading.decode, pytest.param(fast_reading.decode_pixels, marks=with_libraries)])
def test_an_odd_picture_is_read_with_the_option_too(tmp_path, decode):
    folder = write(tmp_path, decodable())
    for name in decodable():
        with open_regular(os.path.join(folder, name)) as file:
            assert numpy.asarray(decode(file, exif_transpose=True)).shape[2] == 3, name


@with_libraries
def test_both_loaders_obey_the_option(tmp_path):
    root = make_folder(tmp_path)
    write_photo(os.path.join(root, "val", "a", "0.png"), 6)
    for words in ((), ("--loader=fast",)):
        upright, lying = (load(root, *words, *more).val.dataset for more in (("--exif-transpose",), ()))
        assert upright[0].pixels.bytes.shape == lying[0].pixels.bytes.shape == (32, 32, 3)
        assert distance(upright[0].pixels.bytes, lying[0].pixels.bytes) > 30
        assert distance(upright[1].pixels.bytes, lying[1].pixels.bytes) == 0


def args_of(folder):
    args = loading.load(os.path.join(str(folder), store.LATEST))["args"]
    return args["extensions"], args["exif_transpose"]


def test_a_checkpoint_records_how_its_images_were_read(small, tmp_path):
    write(tmp_path / "data" / "train" / "a", {"more.gif": encoded(pixels(), "GIF")})
    write_photo(tmp_path / "data" / "val" / "a" / "photo.jpg", 6)
    folder = tmp_path / "out"
    words = ["--output-dir=%s" % folder, "--epochs=1", "--no-model-ema"]
    assert small(*words, "--extensions", ".gif", "--exif-transpose") == 0
    assert args_of(folder) == ([".gif"], True)
    assert small(*words, "--epochs=2") == 0  # resumed without them: as before
    assert args_of(folder) == ([".gif"], True)
    assert small(*words, "--epochs=3", "--no-exif-transpose") == 0
    assert args_of(folder) == ([".gif"], False)
    assert small("--output-dir=%s" % (tmp_path / "plain"), "--epochs=1") == 0
    assert args_of(tmp_path / "plain") == (None, False)


def test_an_evaluation_reads_as_the_training_did(small, tmp_path, capsys):
    for name in ("photo.jpg", "photo2.jpg"):
        write_photo(tmp_path / "data" / "val" / "a" / name, 6)
    folder = tmp_path / "out"
    assert small("--output-dir=%s" % folder, "--epochs=1", "--exif-transpose", "--no-model-ema") == 0

    def evaluated(*words):
        result = str(tmp_path / "result.json")
        assert small("--eval", "--resume=%s" % folder, "--eval-json=" + result, "--no-model-ema", *words) == 0
        with open(result) as file:
            return file.read()

    assert evaluated() == evaluated("--exif-transpose") != evaluated("--no-exif-transpose")


def test_what_a_checkpoint_records_is_checked():
    assert decoding.choose(None, None, {}) == decoding.AS_PUBLISHED == Decoding()
    recorded = {"extensions": [".gif", ".jpg"], "exif_transpose": True}
    assert decoding.choose(None, None, recorded) == Decoding((".gif",), True)
    assert decoding.choose([".bin"], False, recorded) == Decoding((".bin",))
    assert decoding.choose(None, None, {"extensions": None, "exif_transpose": "yes"}) == Decoding()
    for extensions in (7, "gif", [7], ["/etc"], [[".gif"]]):
        with pytest.raises(UserError, match="the checkpoint's option extensions is no list of extensions"):
            decoding.choose(None, None, {"extensions": extensions})


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)


def test_a_format_whose_library_is_missing_is_named(tmp_path, without_heif):
    with pytest.raises(UserError, match=r"--extensions \.heic: HEIC is not read: pip install pillow-heif$"):
        decoding.choose([".gif", ".heic"], None, {})
    write(tmp_path, {"x.heic": HEIC, "x.png": HEIC})
    for name in ("x.heic", "x.png"):
        with pytest.raises(ValueError, match="^HEIC is not read: pip install pillow-heif$"):
            reading.read_image(str(tmp_path / name))
    root = make_folder(tmp_path / "data")
    write(os.path.join(root, "train", "a"), {"x.heic": HEIC})
    with pytest.raises(UserError, match=r"--extensions \.heic: HEIC is not read: pip install pillow-heif"):
        load(root, "--extensions", ".heic")


def test_a_library_that_is_there_is_loaded_when_it_is_needed(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which reads every HEIC file as the same picture."""
    registered = []

    def register():
        registered.append(1)
        monkeypatch.setattr(reading.Image, "open", lambda file: smooth())

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: object())
    path = os.path.join(write(tmp_path, {"x.heic": HEIC}), "x.heic")
    assert decoding.choose([".heic"], None, {}) == Decoding((".heic",)) and not registered
    assert distance(reading.read_image(path), smooth()) == 0 and registered == [1]


@pytest.mark.skipif(not decoding.pillow_reads_avif(), reason="NOT CHECKED: this Pillow reads no AVIF")
def test_avif_is_read_by_pillow_itself(tmp_path):
    root = make_folder(tmp_path)
    write(os.path.join(root, "train", "a"), {"x.avif": encoded(pixels(), "AVIF")})
    loaders = load(root, "--extensions", ".avif")
    assert len(loaders.train.dataset) == 7 and loaders.train.dataset[3].pixels is not None
    assert "1 file passed over: .avif 1; --extensions .avif reads such images too" in load(root).warnings()[0]
