"""An S3 server on loopback, moto's, that a test starts, stops and starts again with what it holds."""

import logging
import os
import re
import threading

import pytest
from containers import content_of
from folders import names_below

BUCKET = "some-bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
SETTINGS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_MAX_ATTEMPTS")


class ObjectStore:
    """The server, in threads of this process, with one empty bucket; `environ` leads programs to it."""

    def __init__(self):
        self.port, self.server = 0, None
        self.held, self.waiting, self.released = (), [], threading.Event()
        self.answered_first, self.refused, self.lock = 0, "", threading.Lock()
        self.start()
        self.environ = dict(KEYS, AWS_ENDPOINT_URL="http://127.0.0.1:%d" % self.port)

    def start(self):
        """Start it, with what it held before."""
        from moto.server import ThreadedMotoServer

        assert self.server is None
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        self.server._server.app = self._holding(self.server._server.app)

    def stop(self):
        """Refuse connections, until `start`."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def hold(self, method, pattern, after=0):
        """Answer only `after` requests of this method and with this pattern in their path, until `release`.

        `waiting` has the others.
        """
        self.released, self.waiting, self.answered_first = threading.Event(), [], after
        self.held = (method, pattern)  # last: requests look at it first

    def release(self):
        """Answer what was held."""
        self.held = ()
        self.released.set()

    def refuse(self, method):
        """Answer all requests of this method with status 403; "" for none."""
        self.refused = method

    def _holding(self, app):
        def answer(environ, start_response):
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if self._is_held(method, path):
                self.waiting.append(path)
                self.released.wait(60)
            if method == self.refused:
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
            return app(environ, start_response)

        return answer

    def _is_held(self, method, path):
        with self.lock:
            if not self.held or method != self.held[0] or not re.search(self.held[1], path):
                return False
            self.answered_first -= 1
            return self.answered_first < 0

    def url(self, path=""):
        """Return the s3:// URL of a path in the bucket."""
        return "s3://%s/%s" % (BUCKET, path)

    def files(self):
        """Return {path: bytes} of what the bucket holds, also while the server is stopped."""
        from moto.s3.models import s3_backends

        keys = self._backend(s3_backends).buckets[BUCKET].keys
        return {name: key.value for name, key in keys.items()}

    def read(self, path):
        """Return the bytes of one of them, b"" where it is not there."""
        from moto.s3.models import s3_backends

        key = self._backend(s3_backends).buckets[BUCKET].keys.get(path)
        return key.value if key is not None else b""

    def put(self, path, data):
        """Put an object into the bucket, also while the server is stopped."""
        from moto.s3.models import s3_backends

        self._backend(s3_backends).put_object(BUCKET, path, data)

    def put_folder(self, folder, path):
        """Put the files below a folder into the bucket, below `path`; return the URL of that."""
        for name in names_below(folder):
            self.put("%s/%s" % (path, os.path.relpath(name, folder)), content_of(name))
        return self.url(path)

    def clear(self):
        """Empty it, but for its bucket."""
        from moto.s3.models import s3_backends

        backend = self._backend(s3_backends)
        backend.reset()
        backend.create_bucket(BUCKET, KEYS["AWS_DEFAULT_REGION"])

    @staticmethod
    def _backend(backends):
        return backends["123456789012"]["aws"]


def reason_to_skip():
    """Return why there is no such server here; "" where there is."""
    for package in ("s3fs", "moto.server"):
        try:
            __import__(package)
        except ImportError:
            return "NOT CHECKED: object storage, without %s" % package.split(".")[0]
    return ""


@pytest.fixture(scope="session")
def object_store_server():
    if reason_to_skip():
        pytest.skip(reason_to_skip())
    store = ObjectStore()
    yield store
    store.stop()


@pytest.fixture
def object_store(object_store_server, monkeypatch):
    """The ObjectStore, started and empty; s3fs finds it in this process and in those that it starts."""
    if object_store_server.server is None:
        object_store_server.start()
    object_store_server.release()
    object_store_server.refuse("")
    object_store_server.clear()
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in object_store_server.environ.items():
        monkeypatch.setenv(name, value)
    return object_store_server
