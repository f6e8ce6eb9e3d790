"""The `--mirror` of a run: what is restored from it at the start, and when checkpoints are uploaded to it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

import numpy

from checkpoints import loading, mirror, store
from checkpoints.mirror_client import MirrorProcess, result_of
from results import existing, lock
from results.plan import may_continue
from runtime.errors import PeerError, RunError, Stopped, UserError, reason, shown
from utils import TEMPORARY

if TYPE_CHECKING:
    from options.parsing import Options
    from results.plan import Plan
    from runtime.distributed import Ranks

_WAIT_S = 1.0  # between two collectives of ranks that wait for a transfer


class Mirrored:
    """The mirror of a run. Without `--mirror`, and in an evaluation, its methods do nothing.

    The first rank uploads. On several machines without a shared file system the first rank of each restores.
    """

    def __init__(self, options: Options, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.folder, self.is_active = options.output_dir, bool(options.mirror) and options.trains
        self.name = "--mirror %s" % shown(options.mirror)
        self.process = MirrorProcess(options.mirror, options.dist_timeout)
        self.manifest: mirror.Manifest | None = None  # what it holds as the run begins
        self.restored = ""  # a line about what was restored
        self.is_current = False  # whether that is the output folder's checkpoint
        self.failure = ""  # why the newest checkpoint is not there
        self._newest: tuple[str, int, int] | None = None  # the arguments of the last `offer`
        self._kept: dict[int, dict[str, str]] = {}  # names that keep the files of each upload until it has ended

    def close(self) -> None:
        """End the process that uploads, and remove the names that it needed."""
        self.process.close()
        for number in list(self._kept):
            self._release(number)

    def restore(self) -> None:
        """Before the plan is made, restore the checkpoint unless the output folder has it, or a newer one.

        All ranks must call this; UserError if the URL cannot be used, or holds another run than the folder.
        """
        if not self.is_active:
            return

        def restore_first(tick: Callable[[], object]) -> numpy.ndarray:
            manifest = self._restore_on_first(tick)
            return numpy.frombuffer(json.dumps(manifest).encode(), numpy.uint8)

        manifest = json.loads(self.ranks.from_rank_0(restore_first).tobytes().decode())
        if self.ranks.world_size > 1 and manifest is not None:
            self._restore_on_others(manifest)

    def _restore_on_first(self, tick: Callable[[], object]) -> mirror.Manifest | None:
        """Return the manifest if the output folder has its checkpoint now, and other machines may need it."""
        dry_run = self.options.dry_run
        self.manifest = manifest = self.process.call(tick, "open", may_write=not dry_run)
        if not may_continue(self.options):
            return None
        if manifest is not None and self._has_latest(manifest):
            self.is_current = True
        elif dry_run and manifest is not None:
            text = "%s holds a checkpoint (%s), which a run may resume"
            logging.getLogger().info(text, self.name, _place_text(manifest))
        elif manifest is not None and self._is_newer(manifest):
            with self._restoring(manifest):
                self.process.call(tick, "restore", manifest=manifest, folder=self.folder)
            self.is_current = True
        elif self.ranks.may_span_machines and not dry_run:
            self._upload_first(tick)
        return self.manifest if self.is_current and not dry_run else None

    def _has_latest(self, manifest: mirror.Manifest) -> bool:
        return mirror.is_file(os.path.join(self.folder, store.LATEST), manifest["files"][store.LATEST])

    def _upload_first(self, tick: Callable[[], object]) -> None:
        """Upload the output folder's checkpoint, so that other machines, which may not see it, can restore it."""
        paths = {name: os.path.join(self.folder, name) for name in mirror.NAMES}
        files = {name: path for name, path in paths.items() if os.path.isfile(path)}
        loaded = {}
        with contextlib.suppress(UserError):  # the plan reports it
            loaded = loading.load(paths[store.LATEST]) if store.LATEST in files else {}
        if "run_id" in loaded:
            where = {"run": loaded["run_id"], "epoch": loaded.get("epoch", -1), "step": loaded.get("step", 0)}
            self.manifest = self.process.call(tick, "upload", files=files, **where)
            self.is_current = True

    def _is_newer(self, manifest: mirror.Manifest) -> bool:
        """Return whether the mirror is further than the output folder; UserError if that holds another run."""
        found = store.checkpoints_in(self.folder)
        if not found:
            return True
        try:
            loaded, _, damaged = loading.load_first_good(found)
        except UserError:
            loaded, damaged = {}, list(found)
        if loaded and loaded.get("run_id") != manifest["run"]:
            text = "%s holds another run than --output-dir %s: name another --mirror, or another --output-dir"
            raise UserError(text % (self.name, shown(self.folder)), one_rank=not self.ranks.is_main)
        place = (loaded.get("epoch", -1), loaded.get("step", 0)) if loaded else (-1, -1)
        is_newer = (manifest["epoch"], manifest["step"]) > place
        for path in damaged if is_newer else []:
            store.rename_by_time(path, ".damaged")
        return is_newer

    @contextlib.contextmanager
    def _restoring(self, manifest: mirror.Manifest) -> Iterator[None]:
        """Context in which the mirror's files are restored into the output folder, which it prepares."""
        if os.path.isdir(self.folder) and not existing.holds_run(self.folder):
            existing.check_nothing_is_overwritten(self.folder, False)
        try:
            os.makedirs(self.folder, exist_ok=True)
            if self.ranks.is_main:
                lock.lock(self.folder)
        except OSError as error:
            text = "--output-dir %s cannot be written to: %s"
            raise UserError(text % (shown(self.folder), reason(error)), one_rank=not self.ranks.is_main) from None
        values = (self.name, _place_text(manifest), self.folder)
        logging.getLogger().info("%s: restoring its checkpoint (%s) into %s", *values)
        yield
        self.restored = "%s: its checkpoint (%s) was restored into %s" % values

    def _restore_on_others(self, manifest: mirror.Manifest) -> None:
        """Let the first rank of each other machine that does not see the first one's checkpoint restore it, too."""
        number, failure = 0, None
        with contextlib.ExitStack() as stack:
            try:
                if self.ranks.is_first_of_machine and not self.ranks.is_main and not self._sees(manifest):
                    stack.enter_context(self._restoring(manifest))
                    number = self.process.request("restore", manifest=manifest, folder=self.folder)
            except UserError as error:
                failure = error
            answers: list[Mapping[str, Any]] = []
            while self.ranks.any(not self.process.is_idle):
                answers += self.process.answers(_WAIT_S)
            answers += self.process.answers()
            has_failed = failure is not None or any("error" in answer for answer in answers)
            if self.ranks.any(has_failed) and not has_failed:
                raise PeerError("--mirror")
            if failure is not None:
                raise failure
            for answer in answers:
                if answer.get("id") == number:
                    result_of(answer, self.options.mirror)
        if not self.ranks.is_main:
            self.process.close()

    def _sees(self, manifest: mirror.Manifest) -> bool:
        """Return whether this machine's output folder has the checkpoint; UserError if it holds another run."""
        if self._has_latest(manifest):
            return True
        self._is_newer(manifest)
        return False

    def begin(self, plan: Plan, tick: Callable[[], object]) -> None:
        """As the run begins and its log is open, on the first rank: let a new run overwrite no other."""
        if self.restored:
            logging.getLogger().info("%s", self.restored)
        if self.is_active and self.manifest is not None and not plan.continues:
            aside = self.process.call(tick, "set_aside")
            text = "%s held another run: its %s is renamed to %s there, and its files stay"
            logging.getLogger().info(text, self.name, mirror.MANIFEST, aside)

    def catch_up(self, plan: Plan) -> None:
        """Upload the checkpoint that the run continues from, if that is not there yet."""
        loaded = plan.loaded or {}
        is_latest = plan.continues and os.path.basename(plan.path or "") == store.LATEST
        if is_latest and not self.is_current and "run_id" in loaded:
            self.offer(loaded["run_id"], loaded.get("epoch", -1), loaded.get("step", 0))

    def offer(self, run_id: str, epoch: int, step: int) -> None:
        """Have the checkpoint that was saved uploaded, on the first rank; this waits for nothing."""
        if not self.is_active or not self.ranks.is_main:
            return
        self._take_answers(0.0)
        self._newest = (run_id, epoch, step)
        files: dict[str, str] = {}
        try:
            for name in mirror.NAMES:
                path = os.path.join(self.folder, name)
                if os.path.isfile(path):
                    files[name] = _second_name(path)
        except OSError as error:
            _remove(files.values())
            self._fail(reason(error))
            return
        number = self.process.request("upload", run=run_id, epoch=epoch, step=step, files=files)
        self._kept[number] = files

    def _take_answers(self, wait_s: float) -> None:
        for answer in self.process.answers(wait_s):
            if "log" in answer:
                logging.getLogger().warning("%s", answer["log"])
                continue
            self._release(answer["id"])
            if "error" in answer:
                self._fail(answer["error"])
            elif not answer.get("superseded"):
                if self.failure:
                    logging.getLogger().info("%s is up to date again", self.name)
                self.failure = ""

    def _fail(self, text: str) -> None:
        if text != self.failure:
            logging.getLogger().warning("%s: a checkpoint is not uploaded: %s; the run continues", self.name, text)
        self.failure = text

    def _release(self, number: int) -> None:
        _remove(self._kept.pop(number, {}).values())

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """Context of the training, at whose end the last upload is waited for; all ranks enter it."""
        try:
            yield
        except Stopped:
            self._settle(self.ranks.any)
            self._report_failure()
            raise
        except Exception:
            self._settle(bool)  # other ranks may be gone
            self._report_failure()
            raise
        self._settle(self.ranks.any)

    def _settle(self, any_rank: Callable[[bool], bool]) -> None:
        """Wait until the newest checkpoint is uploaded, at most for --dist-timeout; once more where that failed."""
        if not self.is_active:
            return
        deadline = time.monotonic() + self.options.dist_timeout
        self._take_answers(0.0)
        if self.failure and self._newest:
            self.offer(*self._newest)
        if not self.process.is_idle:
            logging.getLogger().info("%s: waiting for the last upload", self.name)
        while any_rank(not self.process.is_idle and time.monotonic() < deadline):
            self._take_answers(_WAIT_S)
            self.ranks.tick()
        self._take_answers(0.0)
        if not self.process.is_idle:
            self.failure = "the upload takes longer than %d s (--dist-timeout)" % self.options.dist_timeout
        self.close()

    def _report_failure(self) -> None:
        if self.failure:
            logging.getLogger().error("%s", self._failure_text())

    def _failure_text(self) -> str:
        text = "%s is not up to date: %s; the checkpoints are in --output-dir %s, and the same command uploads them"
        return text % (self.name, self.failure, shown(self.folder))

    def check(self) -> None:
        """At the end of a run, raise RunError if the mirror lacks its last checkpoint."""
        if self.failure:
            raise RunError(self._failure_text(), one_rank=True)


def _place_text(manifest: mirror.Manifest) -> str:
    return "epoch %d, step %d" % (manifest["epoch"] + 1, manifest["step"])


def _second_name(path: str) -> str:
    """Return a further name of a file, or of a copy where links do not work; `utils.remove_leftovers` knows it."""
    name = os.path.join(os.path.dirname(path), TEMPORARY % uuid.uuid4().hex)
    store.link_or_copy(path, name)
    return name


def _remove(paths: Any) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
