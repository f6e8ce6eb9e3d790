"""The story of a run, from its options to the last line of its log: training, --eval, --throughput, --dry-run."""

import functools
import os

import datasets
import engine
import models
import utils
from checkpoints import store
from commands import dry_run
from options import parsing
from results import folder, trackers
from results.record import Record
from runtime.binding import bind_cores
from runtime.device import select_device
from runtime.distributed import Ranks
from runtime.errors import NotFiniteError, RunError, Stopped, UserError, did_you_mean
from runtime.launched import read_launch
from runtime.programs import report
from training import build, metrics

report_line = functools.partial(report, "main.py")


def main(options):
    """Do what the `options` ask for."""
    check_names(options)
    launch = read_launch(os.environ, options.local_rank)
    if options.bind_cpu:
        bind_cores(launch.local_rank, launch.local_world_size or launch.world_size)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    if options.deterministic:
        device.make_deterministic()
    else:
        device.prefer_speed()
    ranks = Ranks(launch, device, options.dist_url, options.dist_timeout, options.virtual_ranks, report_line)
    logger = utils.open_log(options.model, ranks.is_main)
    try:
        ranks.watch(report_line)
        plan = find_plan(options, ranks)
        loaders = datasets.build_loaders(options, ranks, plan.loaded and plan.loaded.get("classes"))
        run = build.build_run(options, ranks, logger, loaders.classes, plan)
        if not options.dry_run:
            begin(options, run, plan)
            if ranks.is_main:
                datasets.keep_indexes(options, loaders)
        build.describe(options, run, loaders, plan)
        if options.dry_run:
            dry_run.rehearse(options, run, loaders, plan)
        elif options.throughput:
            engine.throughput(run, run.bare_model, loaders.val)
        elif options.eval:
            evaluate_once(options, run, loaders)
        else:
            train(options, run, loaders, plan)
        ranks.close()  # not after a failure: it would wait for processes that may be gone
    finally:
        folder.release()


def check_names(options):
    """UserError where there is no such model or tracker, or where the tracker's package is missing."""
    if options.model not in models.MODEL_NAMES:
        near = did_you_mean(options.model, models.MODEL_NAMES)
        raise UserError("--model %s is unknown; --list-models shows which there are%s" % (options.model, near))
    trackers.check(options)


def find_plan(options, ranks):
    """The Plan, on which all processes agree."""
    plan = folder.make_plan(options, ranks.virtual_size)
    resumes = plan.loaded is not None
    if ranks.any(resumes) != resumes:
        message = "--output-dir %s: this process sees no checkpoint there, another does" % options.output_dir
        raise UserError(message, one_rank=True)
    return plan


def begin(options, run, plan):
    """Touch the output folder, now that everything else is known to be right, and open the log there."""
    if options.trains:
        folder.check_something_is_left(options, plan.loaded)
    if run.ranks.is_main:
        message = folder.prepare(options, plan)
        if message:
            run.logger.info(message)
        for line in parsing.warnings_of(options):
            run.logger.warning(line)
    run.ranks.barrier()


def train(options, run, loaders, plan):
    """Train the remaining epochs; after each evaluate, save, and write the results."""
    record = Record(options, run, loaders, plan)
    try:
        with trackers.Trackers(options, run, record) as tracked, run.stop:
            train_epochs(options, run, loaders, record, tracked)
    except Stopped as stop:
        record.check_saved()
        stop.is_saved = bool(options.output_dir)
        run.ranks.barrier()  # a launcher may end the others as soon as one has ended
        raise
    record.check_saved()
    if not record.write("complete"):
        raise RunError("the results in --output-dir %s are not up to date" % options.output_dir)
    run.logger.info("Training time %s", utils.clock_text(record.seconds))
    for line in record.closing_lines():
        run.logger.info(line)


def train_epochs(options, run, loaders, record, tracked):
    """The epochs that remain, each trained, evaluated and saved."""
    for epoch in range(record.next_epoch, options.epochs):

        def save(state, epoch=epoch):
            record.save(epoch - 1, state)

        resume_state = record.resume_state
        try:
            stats = engine.train_one_epoch(run, loaders.train, epoch, resume_state, options.checkpoint_steps, save)
        except NotFiniteError as failure:
            record.save_not_finite(epoch, failure)
            raise
        counts = counts_for(options, run, loaders)
        try:
            results = evaluate(run, loaders.val, counts)
        except Stopped:
            save({"step": len(loaders.train), "stats": stats})
            raise
        is_best = record.add(epoch, stats, *results)
        record.save(epoch, is_best=is_best)
        run.logger.info("Max accuracy: %.2f%%", record.max_accuracy)
        record.write("running")
        if counts is not None and is_best and record.saves and not record.unsaved:
            keep_classes(options, run, loaders, results, counts)
        tracked.update()
    if record.saves and not os.path.exists(os.path.join(options.output_dir, store.LATEST)):
        record.save(record.next_epoch - 1)  # a finished run that was resumed into a new folder


def evaluate_once(options, run, loaders):
    """What `--eval` asks for."""
    counts = counts_for(options, run, loaders)
    results = evaluate(run, loaders.val, counts)
    if not run.ranks.is_main:
        return
    classes = metrics.summary_of(counts, loaders.classes) if options.per_class else None
    for line in metrics.lines_of(classes) if classes else ():
        run.logger.info(line)
    folder.write_evaluation(options, run, *results, classes)


def keep_classes(options, run, loaders, results, counts):
    """Write what the best weights take each class for, beside them; a run does not end because that fails."""
    try:
        folder.write_evaluation(options, run, *results, metrics.summary_of(counts, loaders.classes))
    except UserError as error:
        run.logger.error("%s", error)


def counts_for(options, run, loaders):
    """The counts that `--per-class` asks for, before an evaluation; None without it."""
    return metrics.no_counts(len(loaders.classes), run.device.torch_device) if options.per_class else None


def evaluate(run, batches, counts=None):
    """Accuracy of the weights and of their average (None without one), logged; `counts` as of engine.evaluate."""
    result = engine.evaluate(run, run.bare_model, batches, counts)
    run.logger.info("* Acc@1 %.3f Acc@5 %.3f loss %.3f", result["acc1"], result["acc5"], result["loss"])
    run.logger.info("Accuracy of the network on the %d test images: %.1f%%", result["images"], result["acc1"])
    if result["skipped"]:
        run.logger.warning("skipped %d unreadable images", result["skipped"])
    if run.ema.module is None:
        return result, None
    average = engine.evaluate(run, run.ema.module_on(run.device.torch_device), batches)
    run.logger.info("EMA: Acc@1 %.3f Acc@5 %.3f loss %.3f", average["acc1"], average["acc5"], average["loss"])
    return result, average
