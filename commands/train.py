"""A run from its options to the last line of its log: training, --eval, --throughput, --dry-run."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import numpy

import datasets
import engine
import utils
from checkpoints import loading, store
from commands import dry_run
from options import parsing
from results import folder, lock, reader, trackers
from results import plan as plans
from results.mirrored import Mirrored
from results.record import Record
from runtime import host_memory
from runtime.affinity import bind_cores
from runtime.device import select_device
from runtime.distributed import Ranks
from runtime.ema import NoEma
from runtime.errors import NotFiniteError, RunError, Stopped, UserError
from runtime.launch_environment import read_launch
from runtime.programs import report
from training import build, class_weights, describe, metrics
from training.progress import epoch_line

if TYPE_CHECKING:
    from datasets import Loaders
    from options.parsing import Options
    from results.plan import Plan
    from runtime.device import Device
    from runtime.launch_environment import Launch
    from training.metrics import Counts, EvalResult
    from training.protocols import EvalBatches
    from training.run import Run

report_line = functools.partial(report, "main.py")


def main(options: Options) -> None:
    """Train, evaluate, measure the throughput or make a dry run, as the `options` ask for."""
    check_tracker(options)
    launch = read_launch(os.environ, options.local_rank)
    device = open_device(options, launch)
    ranks = Ranks(launch, device, options.dist_url, options.dist_timeout, options.virtual_ranks, report_line)
    logger = utils.open_log(options.model, ranks.is_main)
    mirrored = Mirrored(options, ranks)
    try:
        ranks.watch(report_line)
        plan = find_plan(options, ranks, mirrored)
        loaded = plan.loaded or {}
        loaders = datasets.build_loaders(options, ranks, datasets.recorded_classes(loaded), loading.options_of(loaded))
        if plan.is_within_epoch and options.trains:
            datasets.check_same_images(loaders.train, str(plan.path), loaded)
        weights = class_weights.weights_of(options, loaders)
        run = build.build_run(options, ranks, logger, loaders.classes, plan, weights)
        loaders.obey(run.stop)
        if not options.dry_run:
            begin(options, run, loaders, plan, mirrored)
            if ranks.is_main:
                datasets.keep_indexes(options, loaders)
        describe.log_start(options, run, loaders, plan)
        if options.dry_run:
            dry_run.rehearse(options, run, loaders, plan)
        elif options.throughput:
            engine.throughput(run, run.bare_model, loaders.val)
        elif options.eval:
            evaluate_once(options, run, loaders)
        else:
            train(options, run, loaders, plan, mirrored)
        loaders.end()  # before `close`: torch 1.8 waits there until no process has its connection open
        ranks.close()  # not after a failure: it would wait for processes that may be gone
    finally:
        mirrored.close()
        lock.unlock()


def open_device(options: Options, launch: Launch) -> Device:
    """Return the device of this process, set up as the options ask for."""
    if options.bind_cpu:
        bind_cores(launch.local_rank, launch.local_world_size or launch.world_size)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    if not device.is_accelerator:
        host_memory.keep_freed_memory()
    if options.deterministic:
        device.make_deterministic()
    else:
        device.prefer_speed()
    return device


def check_tracker(options: Options) -> None:
    """Raise UserError for a tracker that is unknown or cannot work."""
    if trackers.names_of(options.tracker) and options.trains:
        trackers.check(options.tracker, options.output_dir)


def find_plan(options: Options, ranks: Ranks, mirrored: Mirrored) -> Plan:
    """Return the Plan, of a folder that no other run changes meanwhile.

    UserError if not all processes see the same checkpoint, or if the run would change what is not its own.
    """
    ranks.first(lambda tick: folder.hold(options, tick))
    mirrored.restore()
    plan = plans.make_plan(options, ranks.virtual_size)
    resumes = plan.loaded is not None
    if ranks.any(resumes) != resumes:
        message = "--output-dir %s: this process sees no checkpoint there, another does" % options.output_dir
        raise UserError(message, one_rank=True)
    check_same_place(options, ranks, plan)
    ranks.first(lambda tick: folder.check_plan(options, plan))
    return plan


def check_same_place(options: Options, ranks: Ranks, plan: Plan) -> None:
    """Raise UserError where this process resumes from another place than the first, as by an older copy of a folder."""
    loaded = plan.loaded or {}
    place = [loaded.get("epoch", -1), loaded.get("step", 0)]
    first = ranks.from_rank_0(lambda tick: numpy.array(place, numpy.int64).view(numpy.uint8)).view(numpy.int64).tolist()
    if ranks.any(place != first) and place != first:
        text = "%s is of epoch %d, step %d here, and of epoch %d, step %d where the first process runs: copy that one"
        name = plan.path or "--output-dir " + options.output_dir
        raise UserError(text % (name, place[0] + 1, place[1], first[0] + 1, first[1]), one_rank=True)


def begin(options: Options, run: Run, loaders: Loaders, plan: Plan, mirrored: Mirrored) -> None:
    """Prepare the output folder, now that everything else is known to be right, and open the log there."""
    if options.trains:
        plans.check_something_is_left(options, plan.loaded)
    folder.check_validation_images(options, plan, loaders.val.dataset.images.fingerprint)
    run.ranks.first(lambda tick: _begin_on_first(options, run, plan))
    run.ranks.first(lambda tick: mirrored.begin(plan, tick))


def _begin_on_first(options: Options, run: Run, plan: Plan) -> None:
    message = folder.prepare(options, plan)
    if message:
        run.logger.info(message)
    for line in [*parsing.warnings_of(options), *plans.warnings_of(options, plan)]:
        run.logger.warning(line)
    if plan.continues and plans.is_finished(options, plan):
        run.logger.info(plans.finished_line(options, plan))


def train(options: Options, run: Run, loaders: Loaders, plan: Plan, mirrored: Mirrored) -> None:
    """Train the remaining epochs; after each evaluate, save, and write the results."""
    record = Record(options, run, loaders, plan, mirrored.offer)
    names = trackers.names_of(options.tracker) if run.ranks.is_main else []
    tracked = trackers.Trackers(names, options.output_dir, options.as_dict(), record.next_epoch, run.logger)
    try:
        with tracked, run.stop, mirrored.settling():
            mirrored.catch_up(plan)
            train_epochs(options, run, loaders, record, tracked)
            record.check_saved()
    except Stopped as stop:
        stop.is_saved = bool(options.output_dir)
        raise
    if not record.finish():
        raise RunError("the results in --output-dir %s are not up to date" % options.output_dir)
    record.check_best()
    if options.per_class and record.saves:
        log_per_class(run, reader.RunFolder(options.output_dir).evaluation)
    run.logger.info("Training time %s", utils.clock_text(record.seconds))
    for line in record.closing_lines():
        run.logger.info(line)
    mirrored.check()


def train_epochs(options: Options, run: Run, loaders: Loaders, record: Record, tracked: trackers.Trackers) -> None:
    """Train, evaluate and save each remaining epoch."""
    if record.next_epoch < options.epochs:
        loaders.start_processes()
    tracked.update(record.history)  # a tracker may be new to a resumed run
    for epoch in range(record.next_epoch, options.epochs):

        def save(state: dict[str, Any], is_last: bool, epoch: int = epoch) -> None:
            record.save(epoch - 1, state)
            if is_last:
                record.check_saved()
                run.ranks.barrier()  # a launcher may end the others as soon as one has ended

        resume_state = record.resume_state
        try:
            stats = engine.train_one_epoch(run, loaders.train, epoch, resume_state, options.checkpoint_steps, save)
        except NotFiniteError as failure:
            record.save_not_finite(epoch, failure.facts)
            raise
        counts = counts_for(options, run, loaders)
        try:
            result, ema_result = evaluate(run, loaders.val, counts)
        except Exception:
            save({"step": len(loaders.train), "stats": stats}, True)
            raise
        is_best = record.add(epoch, stats, result, ema_result)
        record.save(epoch, is_best=is_best)
        run.logger.info("Max accuracy: %.2f%%", record.best.accuracy, extra=utils.IN_FULL)
        line = epoch_line(record.history[-1], record.best.accuracy, record.seconds_left)
        run.logger.info(line, extra=utils.FOR_TERMINAL)
        record.write("running")
        if is_best and record.saves and not record.unsaved:
            write_per_class(options, run, loaders, counts, result, ema_result)
        tracked.update(record.history)
    if record.saves and not os.path.exists(os.path.join(options.output_dir, store.LATEST)):
        record.save(record.next_epoch - 1)  # a finished run that was resumed into a new folder


def evaluate_once(options: Options, run: Run, loaders: Loaders) -> None:
    """Evaluate the checkpoint, as `--eval` asks for, and write the results on the first rank."""
    counts = counts_for(options, run, loaders)
    result, ema_result = evaluate(run, loaders.val, counts)
    results = [(name, found) for name, found in (("", result), ("EMA: ", ema_result)) if found is not None]
    failed = [text_of_not_finite(name, found) for name, found in results if found.not_finite]
    for name, found in results:
        if not found.not_finite:
            values = (name, found.acc1, found.acc5, found.loss, found.images)
            line = "%sAcc@1 %.3f%%  Acc@5 %.3f%%  loss %.3f  on %d validation images" % values
            run.logger.info(line, extra=utils.FOR_TERMINAL)
    if run.ranks.is_main:
        per_class = {} if result.not_finite else summary_of(counts, loaders)
        log_per_class(run, per_class)
        write_results(options, run, result.claimed(), ema_result and ema_result.claimed(), per_class)
    if failed:
        run.ranks.barrier()  # a launcher may end the first process as soon as another has ended
        message = "%s, so no accuracy is reported: the weights are damaged, or overflow (try --amp none)"
        raise RunError(message % "; ".join(failed))


def text_of_not_finite(name: str, result: EvalResult) -> str:
    """Return how many images of a `result` have logits that are not finite, for a message."""
    values = (name, result.not_finite, result.images)
    return "%sthe logits of %d of %d validation images are not finite (NaN or infinite)" % values


def write_results(
    options: Options, run: Run, result: EvalResult, ema_result: EvalResult | None, per_class: dict[str, Any]
) -> None:
    """Write the results of an evaluation to `--eval-json` and, with those of each class, to the output folder."""
    ema_metrics = ema_result.metrics() if ema_result else {}
    folder.write_evaluation(options, run.ranks.world_size, result.as_dict(), ema_metrics, per_class)


def write_per_class(
    options: Options,
    run: Run,
    loaders: Loaders,
    counts: Counts,
    result: EvalResult,
    ema_result: EvalResult | None,
) -> None:
    """Write the results of the best weights for each class, with `--per-class`; a failure does not end the run."""
    if not options.per_class:
        return
    try:
        write_results(options, run, result, ema_result, summary_of(counts, loaders))
    except UserError as error:
        run.logger.error("%s", error)


def log_per_class(run: Run, evaluation: dict[str, Any]) -> None:
    """Log the table of an `evaluation`'s worst classes and most confused pairs, if it has one."""
    if evaluation.get("per_class"):
        run.logger.info("\n".join(metrics.per_class_table(evaluation)))


def counts_for(options: Options, run: Run, loaders: Loaders) -> Counts:
    """Return the empty Counts for an evaluation, with a confusion matrix if `--per-class` is set."""
    return metrics.Counts(run.device.torch_device, len(loaders.classes), options.per_class)


def summary_of(counts: Counts, loaders: Loaders) -> dict[str, Any]:
    """Return what `counts` tell of each class; {} without a confusion matrix."""
    return metrics.per_class_summary(counts.confusion, loaders.classes) if counts.confusion is not None else {}


def evaluate(run: Run, batches: EvalBatches, counts: Counts) -> tuple[EvalResult, EvalResult | None]:
    """Return and log the metrics of the weights and of the EMA weights (None without them)."""
    result = engine.evaluate(run, run.bare_model, batches, counts)
    log_result(run, "* ", "", result)
    if not result.not_finite:
        # The reference's words, for those who search a log for them; these are the validation images.
        line = "Accuracy of the network on the %d test images: %.1f%%" % (result.images, result.acc1)
        run.logger.info(line, extra=utils.IN_FULL)
    if result.skipped:
        run.logger.warning("skipped %d unreadable images", result.skipped)
    if isinstance(run.ema, NoEma):
        return result, None
    ema_result = engine.evaluate(run, run.ema.module_on(run.device.torch_device), batches, counts.like())
    log_result(run, "EMA: ", "EMA: ", ema_result)
    return result, ema_result


def log_result(run: Run, mark: str, name: str, result: EvalResult) -> None:
    """Log the metrics of an evaluation in the reference's form; a warning in their place if they mean nothing."""
    if result.not_finite:
        run.logger.warning("%s: they count as wrong", text_of_not_finite(name, result))
        return
    values = (mark, result.acc1, result.acc5, result.loss)
    run.logger.info("%sAcc@1 %.3f Acc@5 %.3f loss %.3f" % values, extra=utils.IN_FULL)
    if result.balanced_acc is not None and result.macro_f1 is not None:
        line = "%sbalanced accuracy %.3f macro F1 %.3f" % (mark, result.balanced_acc, result.macro_f1)
        run.logger.info(line, extra=utils.IN_FULL)
