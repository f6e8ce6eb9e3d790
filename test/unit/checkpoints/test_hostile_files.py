"""Files that would run code, and URLs without https or a hash, are refused on every torch."""

import argparse
import contextlib
import hashlib
import http.server
import json
import os
import pickle
import resource
import shutil
import ssl
import subprocess
import threading

import pytest
import torch
from hostile import harms

from checkpoints import download, loading, store
from checkpoints.tensors_only import TensorsOnly
from runtime.errors import UserError

HAS_ZIP_OPTION = "_use_new_zipfile_serialization" in torch.save.__code__.co_varnames


@pytest.mark.parametrize("place", ["model", "args", "optimizer", "whole"])
@pytest.mark.parametrize("kind", sorted(harms("")))
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused(tmp_path, kind, place, legacy):
    harm = harms(tmp_path)[kind]
    content = harm if place == "whole" else dict({"model": {"w": torch.ones(2)}}, **{place: harm})
    options = {"_use_new_zipfile_serialization": not legacy} if HAS_ZIP_OPTION else {}
    path = str(tmp_path / "c.pth")
    torch.save(content, path, **options)
    with pytest.raises(UserError, match="which a checkpoint may not"):
        loading.load(path)
    assert os.listdir(str(tmp_path)) == ["c.pth"]


@pytest.mark.parametrize("kind", sorted(harms("")))
def test_a_bare_pickle_that_runs_code_is_refused(tmp_path, kind):
    path = str(tmp_path / "c.pth")
    with open(path, "wb") as file:
        pickle.dump(harms(tmp_path)[kind], file)
    with pytest.raises(UserError, match=r"c\.pth is not a readable checkpoint"):
        loading.load(path)
    assert os.listdir(str(tmp_path)) == ["c.pth"]


def test_restricted_unpickler_for_old_torch(tmp_path):
    """The replacement of weights_only before torch 2.5 works on this torch too."""
    path = str(tmp_path / "c.pth")
    options = {"weights_only": False} if hasattr(torch.serialization, "safe_globals") else {}
    good = {"model": {"w": torch.arange(3), "h": torch.ones(2, dtype=torch.float16)}, "args": argparse.Namespace(a=1)}
    torch.save(good, path)
    loaded = torch.load(path, pickle_module=TensorsOnly, **options)
    assert loaded["args"] == good["args"] and torch.equal(loaded["model"]["w"], good["model"]["w"])
    for harm in harms(tmp_path).values():
        torch.save({"model": harm}, path)
        with pytest.raises(pickle.UnpicklingError, match="which a checkpoint may not"):
            torch.load(path, pickle_module=TensorsOnly, **options)
    assert os.listdir(str(tmp_path)) == ["c.pth"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of two milliards of values
        b"\x80\x04\x8e" + b"\0\0\0\0\x10\0\0\0" + b"abc.",  # bytes
        b"\x80\x04\x95" + b"\0\0\0\0\x10\0\0\0" + b"N.",  # a frame
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",  # an integer
    ],
)
def test_a_pickle_that_claims_gigabytes_is_refused_at_once(tmp_path, content):
    path = str(tmp_path / "c.pth")
    with open(path, "wb") as file:
        file.write(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not a readable checkpoint"):
        loading.load(path)
    with contextlib.suppress(pickle.UnpicklingError, EOFError, MemoryError), open(path, "rb") as file:
        TensorsOnly.load(file)  # as an older torch does
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # KiB


def metadata_of(text):
    """Return a safetensors file of one weight whose metadata has `text` as its args."""
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"args": text}}
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + bytes(4)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' * 10**5, "{", "[1]", '{"model": %s}' % ("9" * 10**5), ""])
def test_hostile_metadata_of_safetensors(tmp_path, text):
    pytest.importorskip("safetensors")
    path = str(tmp_path / "c.safetensors")
    for content in (metadata_of(text), metadata_of(text)[:60], (2**40).to_bytes(8, "little") + metadata_of(text)[8:]):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(UserError) as caught:
            loading.load(path)
        assert path in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with open(path, "wb") as file:
        file.write(metadata_of('{"model": "smlpnet_tiny"}'))
    assert loading.load(path)["args"] == {"model": "smlpnet_tiny"}


def test_a_torchscript_program_is_refused(tmp_path):
    path = str(tmp_path / "c.pth")
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(UserError, match="TorchScript"):
        loading.load(path)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://localhost/c-0123456789abcdef.pth", "by https only"),
        ("ftp://localhost/c-0123456789abcdef.pth", "by https only"),
        ("file:///etc/passwd#sha256=" + 64 * "0", "by https only"),
        ("https://localhost/c.pth", "append #sha256="),
        ("https://localhost/c.pth#sha256=123", "append #sha256="),
        ("https:///c-0123456789abcdef.pth", "by https only"),
        ("https://localhost:1/c-0123456789abcdef.pth", "cannot be fetched"),
    ],
)
def test_only_https_with_a_hash_is_fetched(url, reason):
    with pytest.raises(UserError, match=reason):
        store.resolve(url)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Yield (address of a local https server, its folder); torch.hub's folder is a temporary one."""
    if not shutil.which("openssl"):
        pytest.skip("NOT CHECKED: no openssl to make a certificate with")
    key, certificate, folder = (str(tmp_path / name) for name in ("key", "certificate", "served"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    os.mkdir(folder)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return os.path.join(folder, os.path.basename(path))

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield "https://localhost:%d/" % server.server_address[1], folder
    server.shutdown()
    server.server_close()


def test_a_checkpoint_is_fetched_once_and_checked(served, tmp_path):
    address, folder = served
    path = os.path.join(folder, "c.pth")
    torch.save({"model": {"w": torch.ones(2)}}, path)
    with open(path, "rb") as file:
        digits = hashlib.sha256(file.read()).hexdigest()
    fetched = store.resolve(address + "c.pth#sha256=" + digits)
    assert loading.load(fetched)["model"]["w"].sum() == 2
    named = "c-%s.pth" % digits[:10]
    os.rename(path, os.path.join(folder, named))
    assert loading.load(store.resolve(address + named))["model"]["w"].sum() == 2
    os.unlink(os.path.join(folder, named))
    assert store.resolve(address + "c.pth#sha256=" + digits) == fetched  # it is not fetched again
    with pytest.raises(UserError, match="cannot be fetched"):
        store.resolve(address + "other.pth#sha256=" + digits)


def test_a_file_with_another_hash_is_refused(served, tmp_path):
    address, folder = served
    torch.save({"model": {"w": torch.ones(2)}}, os.path.join(folder, "c.pth"))
    with pytest.raises(UserError, match="hash"):
        download.fetch(address + "c.pth#sha256=" + 64 * "0")
    assert not [name for _, _, names in os.walk(str(tmp_path / "hub")) for name in names]
