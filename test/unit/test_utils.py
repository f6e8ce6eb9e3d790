"""Files written atomically, valid JSON, and digests of files."""

import errno
import hashlib
import io
import json
import os

import pytest

import utils
from runtime.errors import UserError


def test_a_file_of_the_user_that_looks_temporary_survives(tmp_path):
    (tmp_path / "findings.json.tmp").write_text("the user's")
    utils.write_json(str(tmp_path / "findings.json"), {"a": 1})
    assert (tmp_path / "findings.json.tmp").read_text() == "the user's"
    assert (tmp_path / "findings.json").read_text() == '{\n  "a": 1\n}\n'
    assert len(os.listdir(str(tmp_path))) == 2


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = str(tmp_path / "a.txt")
    utils.write_text(path, "before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left on device.*a\\.txt") as caught:
        utils.write_text(path, "after")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == path
    assert os.listdir(str(tmp_path)) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "before"


def test_without_force_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = str(tmp_path / "a.txt")

    def write(force):
        with utils.replacing(path, force) as temporary, open(temporary, "w") as file:
            (tmp_path / "a.txt").write_text("another program's")
            file.write("new")

    with pytest.raises(UserError, match="a.txt exists: name another file, or pass --force"):
        write(force=False)
    assert os.listdir(str(tmp_path)) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "another program's"
    write(force=True)
    assert os.listdir(str(tmp_path)) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "new"


def test_a_digest_is_of_the_whole_file():
    data = bytes(range(256)) * 9000  # more than two blocks
    assert utils.digest_of(io.BytesIO(data)).hexdigest() == hashlib.sha256(data).hexdigest()
    short = utils.digest_of(io.BytesIO(data), hashlib.blake2b(digest_size=16)).digest()
    assert short == hashlib.blake2b(data, digest_size=16).digest()


def test_json_holds_null_where_a_number_is_not_finite(tmp_path):
    nan, inf = float("nan"), float("inf")
    value = {"loss": nan, "rows": [(1.5, -inf), {"a": inf}], "name": "NaN", 3: True}
    path = str(tmp_path / "a.json")
    utils.write_json(path, value)
    with open(path) as file:
        found = json.load(file, parse_constant=pytest.fail)
    assert found == {"loss": None, "rows": [[1.5, None], {"a": None}], "name": "NaN", "3": True}
    log = str(tmp_path / "log.txt")
    utils.append_missing_rows(log, [{"epoch": 0, "test_loss": nan}, {"epoch": 1, "test_loss": 0.1}])
    utils.append_missing_rows(log, [{"epoch": 1, "test_loss": nan}])
    with open(log) as file:
        assert file.read() == '{"epoch": 0, "test_loss": null}\n{"epoch": 1, "test_loss": 0.1}\n'


def test_hostile_json_is_read_or_a_value_error():
    assert utils.parse_json("[%s, -%s, 12]" % (9**200, "9" * 10**6)) == [9**200, -float("inf"), 12]
    for text in ("[" * 10**5, '{"a":' * 10**5, "", "nul", "[1"):
        with pytest.raises(ValueError):
            utils.parse_json(text)
