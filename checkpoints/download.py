"""Download of checkpoints: only if the user names a URL, only by https, and only with a hash to verify."""

from __future__ import annotations

import os
import re
import ssl
import urllib.error
import urllib.parse

import torch

from runtime.errors import UserError, reason
from utils import digest_of


def is_url(path: str) -> bool:
    """Return whether `path` is a URL."""
    return "://" in path


def fetch(url: str) -> str:
    """Return the local path of the file at `url`, downloaded to a folder beside torch.hub's unless it is there.

    The SHA-256 is in the fragment, `#sha256=<64 digits>`, or its first 8 digits or more are in the file's name, as in
    torch.hub's `name-<digits>.pth`. UserError if it is missing or wrong, or if the download fails.
    """
    parts = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(parts.path))
    digits = _digits_of(parts.fragment, name)
    if parts.scheme != "https" or not parts.hostname:
        raise UserError("%s: checkpoints are fetched by https only; fetch it yourself and name the file" % url)
    if not digits or not name:
        raise UserError("%s: append #sha256=<64 hexadecimal digits>, by which the file can be checked" % url)
    folder = os.path.join(_hub_folder(), "spach-smlp")
    path = os.path.join(folder, "%s-%s" % (digits[:16], name))
    try:
        os.makedirs(folder, exist_ok=True)
        if not (os.path.isfile(path) and _sha256_of(path).startswith(digits)):
            torch.hub.download_url_to_file(
                parts._replace(fragment="").geturl(), path, hash_prefix=digits, progress=False
            )
    except (OSError, RuntimeError, ValueError, urllib.error.URLError, ssl.SSLError) as error:
        raise UserError("%s cannot be fetched: %s" % (url, reason(error))) from None
    return path


def _digits_of(fragment: str, name: str) -> str | None:
    found = re.match(r"sha256=([0-9a-fA-F]{64})$", fragment) or re.search(r"-([0-9a-fA-F]{8,64})\.\w+$", name)
    return found.group(1).lower() if found else None


def _hub_folder() -> str:
    return torch.hub.get_dir() if hasattr(torch.hub, "get_dir") else torch.hub._get_torch_home()


def _sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return digest_of(file).hexdigest()
