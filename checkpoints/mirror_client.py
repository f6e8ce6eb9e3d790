"""The training process's end of the process that uploads to `--mirror`: it asks, and never waits unless it wants to."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Callable, Mapping

from runtime.errors import RunError, UserError

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = "import sys; sys.path[0] = sys.argv[1]; from checkpoints import mirror_worker; mirror_worker.main()"
_TICK_S = 0.5


class MirrorProcess:
    """The process, which is started when it is needed, and again where it was killed.

    It is no fork of the training process and there is no thread for it: the loader processes are forked from that.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self.url, self.patience_s = url, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._waiting: list[int] = []  # the requests that have no answer yet
        self._answers: list[dict[str, Any]] = []
        self._rest = b""

    @property
    def is_idle(self) -> bool:
        """Whether every request has its answer, which may be unread."""
        return not self._waiting

    def request(self, act: str, **arguments: Any) -> int:
        """Ask for a method of checkpoints.mirror.Mirror; return the number of the request, which its answer has."""
        self._count += 1
        self._waiting.append(self._count)
        line = json.dumps({"id": self._count, "act": act, "arguments": arguments}) + "\n"
        try:
            stdin = self._started().stdin
            assert stdin is not None
            stdin.write(line.encode())
            stdin.flush()
        except OSError as error:
            self._lose(str(error))
        return self._count

    def answers(self, wait_s: float = 0.0) -> list[dict[str, Any]]:
        """Return the answers and lines of the log that came, after at most `wait_s`; one of a dead process is there."""
        self._read(wait_s)
        answers, self._answers = self._answers, []
        return answers

    def call(self, tick: Callable[[], object], act: str, **arguments: Any) -> Any:
        """Return the result of a request, calling `tick` meanwhile; UserError or RunError where it fails."""
        number = self.request(act, **arguments)
        while number in self._waiting:
            self._read(_TICK_S)
            tick()
        (answer,) = [answer for answer in self._answers if answer.get("id") == number]
        self._answers.remove(answer)
        return result_of(answer, self.url)

    def close(self) -> None:
        """End the process, at once: whatever it does is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                _close(pipe)
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._rest = b""
            command = [sys.executable, "-c", _START, _ROOT, str(os.getpid()), self.url, str(self.patience_s)]
            self._process = subprocess.Popen(  # noqa: S603 - a list, no shell
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process

    def _read(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while self._process is not None and self._process.stdout is not None:
            handle = self._process.stdout.fileno()
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                return
            data = os.read(handle, 2**16)
            if not data:
                self._lose("its process has ended")
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            if not self._waiting:
                return

    def _take(self, answer: dict[str, Any]) -> None:
        self._answers.append(answer)
        if "id" in answer:
            self._waiting.remove(answer["id"])

    def _lose(self, text: str) -> None:
        """Answer what has no answer, for a process that is gone."""
        self.close()
        for number in list(self._waiting):
            self._take({"id": number, "error": text})


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # what was to be sent cannot be sent any more
        pass


def result_of(answer: Mapping[str, Any], url: str) -> Any:
    """Return the result in an answer; UserError or RunError where it holds an error."""
    if "error" not in answer:
        return answer.get("result")
    if answer.get("is_user_error"):
        raise UserError(answer["error"])
    raise RunError("--mirror %s: %s" % (url, answer["error"]))
