"""The process that uploads to `--mirror`, beside the training process, which it neither holds up nor outlives.

It reads requests from stdin, a line of JSON each, and writes the answers to stdout. Of the uploads that wait only the
newest is made.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections import deque
from typing import Any, Callable, Mapping

from checkpoints.mirror import Mirror, Superseded
from runtime.errors import RunError, UserError, one_line, reason
from runtime.signals import die_with_parent, ignore_stop_signals

UPLOAD = "upload"


class _LogHandler(logging.Handler):
    """Sends lines of the log to the training process; of a network that stays lost only the first."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self.send, self.is_lost = send, False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_lost:
            self.send({"log": one_line(record.getMessage())})
        self.is_lost = True


class Requests:
    """The requests that wait, in order; a newer upload takes the place of one that waits."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self.send = send
        self.waiting: deque[dict[str, Any]] = deque()
        self.changed = threading.Condition()
        self.has_ended = False

    def put(self, request: dict[str, Any]) -> None:
        """Add a request."""
        with self.changed:
            if request["act"] == UPLOAD:
                for older in [other for other in self.waiting if other["act"] == UPLOAD]:
                    self.waiting.remove(older)
                    self.send({"id": older["id"], "superseded": True})
            self.waiting.append(request)
            self.changed.notify()

    def end(self) -> None:
        """Let `get` return None, once nothing waits."""
        with self.changed:
            self.has_ended = True
            self.changed.notify()

    def get(self) -> dict[str, Any] | None:
        """Wait for the next request and return it; None after the last."""
        with self.changed:
            while not self.waiting and not self.has_ended:
                self.changed.wait()
            return self.waiting.popleft() if self.waiting else None

    def has_newer_upload(self) -> bool:
        """Return whether an upload waits."""
        with self.changed:
            return any(request["act"] == UPLOAD for request in self.waiting)


def main() -> None:
    """Serve the training process, whose number is the first argument, until it closes stdin or ends."""
    ignore_stop_signals(0)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return  # it has ended already
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    lock = threading.Lock()

    def send(answer: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    requests = Requests(send)

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        requests.end()

    threading.Thread(target=read, daemon=True).start()
    serve(sys.argv[3], float(sys.argv[4]), requests, send)


def serve(url: str, patience_s: float, requests: Requests, send: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer the requests until the last."""
    handler = _LogHandler(send)
    logging.getLogger().addHandler(handler)
    mirror = Mirror(url, patience_s)
    for request in iter(requests.get, None):
        is_upload = request["act"] == UPLOAD
        mirror.is_moot = requests.has_newer_upload if is_upload else lambda: False
        send(dict(_answer(mirror, request), id=request["id"]))
        handler.is_lost = handler.is_lost and is_upload and requests.has_newer_upload()


def _answer(mirror: Mirror, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(mirror, request["act"])(**request["arguments"])}
    except UserError as error:
        return {"error": str(error), "is_user_error": True}
    except Superseded:
        return {"superseded": True}
    except RunError as error:
        return {"error": str(error).replace(mirror.name + ": ", "", 1)}
    except Exception as error:  # of a service's own package, too: the run goes on
        return {"error": one_line(reason(error), 500)}
