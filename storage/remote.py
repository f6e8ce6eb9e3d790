"""Files at URLs (s3://, gs://, https:// and the like), by fsspec, an optional package; a lost network is waited for."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import random
import re
import time
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, TypeVar
from urllib.parse import urlsplit

from runtime.errors import RunError, UserError, one_line, reason, shown

Range = Tuple[str, int, Optional[int]]  # a URL, and where the bytes begin and end (None: at its end)
Stamp = Tuple[int, int]  # bytes, and a number that changes with the contents
_Result = TypeVar("_Result")

# What reads URLs beside fsspec itself.
PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
_PATIENCE_S = 1800.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
_WRONG_SIZE = "its server sent %d bytes where %d were asked for: the file has changed, or is not read in parts there"
_WAITING = "%s: %s; it is tried again, for up to %d s"
_AT_ONCE = 16  # requests
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "LastModified", "last_modified", "Last-Modified")
# Names of exceptions that mean a lost network, or a server that is down for a while: of botocore, aiohttp, fsspec.
_LOST = re.compile(
    r"Timeout|Connect|Disconnected|Payload|IncompleteRead|ResponseStreaming|HTTPClientError|ClientOSError"
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of this machine
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_LASTING_ERRNOS = (errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTSUP, *DISK_ERRORS, *_TOO_MANY_FILES)
_LASTING = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    NotImplementedError,
)


class NetworkLost(RunError):  # noqa: N818 - no fault of the program
    """A URL could not be read or written for as long as a run waits."""

    def __init__(self, text: str) -> None:
        super().__init__(text, one_rank=True)


def is_url(path: str) -> bool:
    """Return whether `path` is a URL."""
    return "://" in path


def without_password(text: str) -> str:
    """Return a text with URLs without the user and password in them."""
    return re.sub("//[^/@]*@", "//...@", text)


def check_url(url: str, name: str) -> None:
    """Raise UserError, which begins with `name`, for a URL that cannot be read here, or that has a password in it."""
    parts = urlsplit(url)
    if "::" in url or parts.scheme not in PACKAGES:
        known = " ".join(scheme + "://" for scheme in PACKAGES)
        raise UserError("%s: no such kind of URL is known, but %s" % (name, known))
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        text = "%s: leave the password out: logs would show it; set the service's own variables"
        raise UserError(text % without_password(name))
    try:
        filesystem(url)
    except ImportError as error:
        package = PACKAGES[parts.scheme]
        raise UserError(
            "%s: URLs are read by %s (%s): pip install %s" % (name, package, reason(error), package)
        ) from None
    except Exception as error:  # of a service's own package, such as for credentials
        raise UserError("%s: %s" % (name, _text_of(error))) from None


def filesystem(url: str) -> Any:
    """Return the fsspec file system of a URL, which is this process's own; ImportError where a package is missing."""
    import fsspec

    for name in ("aiobotocore", "botocore"):  # which tell where they found a key
        logging.getLogger(name).setLevel(logging.WARNING)
    scheme = urlsplit(url).scheme
    more: dict[str, Any] = {}
    if scheme in ("http", "https"):
        import aiohttp

        more["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=30)}
    return fsspec.filesystem(scheme, use_listings_cache=False, **more)


def persist(
    act: Callable[[], _Result],
    name: str,
    patience_s: float = _PATIENCE_S,
    before_retry: Callable[[], None] = lambda: None,
) -> _Result:
    """Return `act()`, which is tried again with growing delays while the network is lost; NetworkLost at last.

    OSError for what no waiting mends: a file that is not there, or that one may not read. What `before_retry` raises
    ends the waiting.
    """
    began, delay = time.monotonic(), _FIRST_DELAY_S
    jitter = random.Random()  # not the process's own numbers, on which images depend
    is_first = True
    while True:
        try:
            return act()
        except Exception as error:
            if not is_transient(error):
                raise _as_os_error(error) from None
            if time.monotonic() - began + delay > patience_s:
                text = "%s: %s, for %d s (--dist-timeout)"
                raise NetworkLost(text % (shown(name), _text_of(error), time.monotonic() - began)) from None
            if is_first:
                logging.getLogger().warning(_WAITING, shown(name), _text_of(error), patience_s)
            is_first = False
        time.sleep(delay * jitter.uniform(0.5, 1))
        delay = min(2 * delay, _LONGEST_DELAY_S)
        before_retry()


def is_transient(error: BaseException) -> bool:
    """Return whether `error` means a lost network or a busy server, which may be back later."""
    if isinstance(error, _LASTING):
        return False
    status = getattr(error, "status", None)  # of aiohttp
    if isinstance(status, int) and status:
        return status >= 500 or status in (408, 425, 429)
    if isinstance(error, OSError):
        return error.errno not in _LASTING_ERRNOS
    return any(_LOST.search(kind.__name__) for kind in type(error).__mro__)


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError) and " " not in str(error):  # but the path
        return FileNotFoundError("no such file or folder")
    if isinstance(error, OSError):
        return error
    status = getattr(error, "status", None)
    return PermissionError(_text_of(error)) if status in (401, 403) else OSError(_text_of(error))


def _text_of(error: BaseException) -> str:
    return one_line(reason(error), 300) or type(error).__name__


def stamp_in(info: dict[str, Any]) -> Stamp:
    """Return the Stamp in what fsspec tells of a file; OSError where its size is not known."""
    size = info.get("size")
    if not isinstance(size, int):
        raise OSError("its server does not tell its size")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return size, -int(hashlib.sha256(version.encode("utf-8", "replace")).hexdigest()[:12], 16)


def stamps(urls: Sequence[str], patience_s: float = _PATIENCE_S) -> list[Stamp | OSError]:
    """Return the Stamp of each URL, or why there is none; several are asked for at once."""
    from concurrent.futures import ThreadPoolExecutor

    def find(url: str) -> Stamp | OSError:
        try:
            info = persist(lambda: filesystem(url).info(url), url, patience_s)
            if info.get("type") == "directory":
                return IsADirectoryError("it is a folder")
            return stamp_in(info)
        except OSError as error:
            return error

    with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(urls)))) as pool:
        return list(pool.map(find, urls))


def read_all(url: str, patience_s: float = _PATIENCE_S) -> bytes:
    """Return the contents of the file at a URL."""
    return persist(lambda: filesystem(url).cat_file(url), url, patience_s)


def read_ranges(ranges: Sequence[Range], patience_s: float = _PATIENCE_S) -> list[bytes | OSError]:
    """Return the bytes of each of the `ranges` (url, start, end; None for all), or why they cannot be read."""
    found: dict[int, bytes | OSError] = {number: b"" for number, (_, start, end) in enumerate(ranges) if start == end}
    left = [number for number in range(len(ranges)) if number not in found]
    for scheme in {urlsplit(ranges[number][0]).scheme for number in left}:
        numbers = [number for number in left if urlsplit(ranges[number][0]).scheme == scheme]
        persist(functools.partial(_fetch, ranges, numbers, found), ranges[numbers[0]][0], patience_s)
    return [found[number] for number in range(len(ranges))]


def _fetch(ranges: Sequence[Range], numbers: Sequence[int], found: dict[int, bytes | OSError]) -> None:
    """Put those ranges that are not there into `found`; raise what may be better the next time."""
    left = [number for number in numbers if number not in found]
    urls, starts, ends = (list(values) for values in zip(*(ranges[number] for number in left)))
    lost = None
    for number, result in zip(left, filesystem(urls[0]).cat_ranges(urls, starts, ends, on_error="return")):
        _, start, end = ranges[number]
        if isinstance(result, Exception):
            if is_transient(result):
                lost = result
            else:
                found[number] = _as_os_error(result)
        elif end is not None and len(result) != end - start:
            found[number] = OSError(_WRONG_SIZE % (len(result), end - start))
        else:
            found[number] = bytes(result)
    if lost is not None:
        raise lost


def list_folder(url: str, patience_s: float = _PATIENCE_S) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files in the folder at a URL; FileNotFoundError for none."""
    found = persist(lambda: filesystem(url).ls(url.rstrip("/"), detail=True), url, patience_s)
    folders: list[str] = []
    files: list[str] = []
    own = (url.rstrip("/"), url.rstrip("/").rpartition("://")[2])
    for info in found:
        path = info["name"].rstrip("/")
        if path not in own:  # an empty object that stands for the folder
            (folders if info["type"] == "directory" else files).append(path.rpartition("/")[2])
    if not found:
        raise FileNotFoundError("no such folder")
    return sorted(folders), sorted(files)


def kind_of(url: str, patience_s: float = _PATIENCE_S) -> str:
    """Return what lies at a URL: "file", "directory", or "" for nothing."""
    try:
        return persist(lambda: filesystem(url).info(url), url, patience_s)["type"]
    except FileNotFoundError:
        return ""


def walk(url: str, patience_s: float = _PATIENCE_S) -> Iterator[tuple[str, list[str]]]:
    """Yield (path relative to `url`, sorted names of its files) of the folder at a URL and of those below it."""
    found = persist(lambda: filesystem(url).find(url.rstrip("/")), url, patience_s)
    own = url.rstrip("/").rpartition("://")[2]
    folders: dict[str, list[str]] = {}
    for path in found:
        folder, _, name = path.rpartition("://")[2][len(own) + 1 :].rpartition("/")
        if name:
            folders.setdefault(folder, []).append(name)
    for folder in sorted(folders):
        yield folder, sorted(folders[folder])
