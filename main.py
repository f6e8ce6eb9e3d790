"""Train, evaluate or time a model: `python main.py --data-path DIR --output-dir DIR`, or the same under torchrun."""

import os
import re
import signal
import sys
import time
import traceback

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds, prints no traceback

import args as options_module
import build
import catalogue
import completion
import confusion
import datasets
import dry_run
import engine
import models
import output
import record
import trackers
import utils
from runtime import checkpoint
from runtime.binding import bind_cores
from runtime.compiling import failed_to_compile
from runtime.device import out_of_memory, select_device
from runtime.distributed import Ranks, lost_a_peer
from runtime.errors import NotFiniteError, RunError, Stopped, UserError, did_you_mean
from runtime.launched import read_launch
from runtime.stops import end_loaders, name_of


def run(argv):
    """Do what the command line `argv` asks for."""
    options = options_module.parse(argv)
    if options.list_models or options.print_completion:
        for line in catalogue.lines() if options.list_models else [completion.script(options.print_completion)]:
            print(line, flush=True)
        return
    check_names(options)
    launch = read_launch(os.environ, options.local_rank)
    if options.bind_cpu:
        bind_cores(launch.local_rank, launch.local_world_size or launch.world_size)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    device.make_deterministic() if options.deterministic else device.prefer_speed()
    ranks = Ranks(launch, device, options.dist_url, options.dist_timeout, options.virtual_ranks, report)
    logger = utils.open_log(options.model, ranks.is_main)
    try:
        ranks.watch(report)
        start = find_start(options, ranks)
        loaders = datasets.build_loaders(options, ranks, start.loaded and start.loaded.get("classes"))
        current = build.build_run(options, ranks, logger, loaders.classes, start)
        if not options.dry_run:
            begin(options, current, start)
            if ranks.is_main:
                datasets.keep_indexes(options, loaders)
        build.describe(options, current, loaders, start)
        if options.dry_run:
            dry_run.run(options, current, loaders, start)
        elif options.throughput:
            engine.throughput(current, current.bare_model, loaders.val)
        elif options.eval:
            evaluate_once(options, current, loaders)
        else:
            train(options, current, loaders, start)
        ranks.close()  # not after a failure: it would wait for processes that may be gone
    finally:
        output.release()


def check_names(options):
    """UserError where there is no such model or tracker, or where the tracker's package is missing."""
    if options.model not in models.MODEL_NAMES:
        near = did_you_mean(options.model, models.MODEL_NAMES)
        raise UserError("--model %s is unknown; --list-models shows which there are%s" % (options.model, near))
    trackers.check(options)


def find_start(options, ranks):
    """The Plan, on which all processes agree."""
    start = output.plan(options, ranks.virtual_size)
    resumes = start.loaded is not None
    if ranks.any(resumes) != resumes:
        message = "--output-dir %s: this process sees no checkpoint there, another does" % options.output_dir
        raise UserError(message, one_rank=True)
    return start


def begin(options, current, start):
    """Touch the output folder, now that everything else is known to be right, and open the log there."""
    if not (options.eval or options.throughput):
        output.check_something_is_left(options, start.loaded)
    if current.ranks.is_main:
        message = output.prepare(options, start)
        if message:
            current.logger.info(message)
        for line in options_module.warnings_of(options):
            current.logger.warning(line)
    current.ranks.barrier()


def train(options, current, loaders, start):
    """Train the remaining epochs; after each evaluate, save, and write the results."""
    kept = record.Record(options, current, loaders, start)
    try:
        with trackers.Trackers(options, current, kept) as tracked, current.stop:
            train_epochs(options, current, loaders, kept, tracked)
    except Stopped as stop:
        kept.check_saved()
        stop.is_saved = bool(options.output_dir)
        current.ranks.barrier()  # a launcher may end the others as soon as one has ended
        raise
    kept.check_saved()
    if not kept.write("complete"):
        raise RunError("the results in --output-dir %s are not up to date" % options.output_dir)
    current.logger.info("Training time %s", utils.clock_text(kept.seconds))
    for line in kept.closing_lines():
        current.logger.info(line)


def train_epochs(options, current, loaders, kept, tracked):
    """The epochs that remain, each trained, evaluated and saved."""
    for epoch in range(kept.next_epoch, options.epochs):

        def save(within, epoch=epoch):
            kept.save(epoch - 1, within)

        try:
            stats = engine.train_one_epoch(current, loaders.train, epoch, kept.within, options.checkpoint_steps, save)
        except NotFiniteError as failure:
            kept.save_not_finite(epoch, failure)
            raise
        counts = counts_for(options, current, loaders)
        try:
            results = evaluate(current, loaders.val, counts)
        except Stopped:
            save({"step": len(loaders.train), "stats": stats})
            raise
        is_best = kept.add(epoch, stats, *results)
        kept.save(epoch, is_best=is_best)
        current.logger.info("Max accuracy: %.2f%%", kept.max_accuracy)
        kept.write("running")
        if counts is not None and is_best and kept.saves and not kept.unsaved:
            keep_classes(options, current, loaders, results, counts)
        tracked.update()
    if kept.saves and not os.path.exists(os.path.join(options.output_dir, checkpoint.LATEST)):
        kept.save(kept.next_epoch - 1)  # a finished run that was resumed into a new folder


def evaluate_once(options, current, loaders):
    """What `--eval` asks for."""
    counts = counts_for(options, current, loaders)
    results = evaluate(current, loaders.val, counts)
    if not current.ranks.is_main:
        return
    classes = confusion.summary_of(counts, loaders.classes) if options.per_class else None
    for line in confusion.lines_of(classes) if classes else ():
        current.logger.info(line)
    output.write_evaluation(options, current, *results, classes)


def keep_classes(options, current, loaders, results, counts):
    """Write what the best weights take each class for, beside them; a run does not end because that fails."""
    try:
        output.write_evaluation(options, current, *results, confusion.summary_of(counts, loaders.classes))
    except UserError as error:
        current.logger.error("%s", error)


def counts_for(options, current, loaders):
    """The counts that `--per-class` asks for, before an evaluation; None without it."""
    return confusion.no_counts(len(loaders.classes), current.device.torch_device) if options.per_class else None


def evaluate(current, batches, counts=None):
    """Accuracy of the weights and of their average (None without one), logged; `counts` as of engine.evaluate."""
    result = engine.evaluate(current, current.bare_model, batches, counts)
    current.logger.info("* Acc@1 %.3f Acc@5 %.3f loss %.3f", result["acc1"], result["acc5"], result["loss"])
    current.logger.info("Accuracy of the network on the %d test images: %.1f%%", result["images"], result["acc1"])
    if result["skipped"]:
        current.logger.warning("skipped %d unreadable images", result["skipped"])
    if current.ema.module is None:
        return result, None
    average = engine.evaluate(current, current.ema.module_on(current.device.torch_device), batches)
    current.logger.info("EMA: Acc@1 %.3f Acc@5 %.3f loss %.3f", average["acc1"], average["acc5"], average["loss"])
    return result, average


def main(argv=None):
    """Run and return the exit status: 0; 2 for bad input; 1 for a run that failed; 128 + N when signal N stopped it."""
    status = attempt(argv)
    end_loaders()  # now that the loaders have been given up, which asks their processes to end
    return status


def attempt(argv):
    """Run, say what went wrong, and return the exit status."""
    speaks = not re.fullmatch("0*[1-9][0-9]*", os.environ.get("LOCAL_RANK", "0"))  # the first process of a machine
    try:
        run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        if error.one_rank or speaks:
            report("error: %s" % error)
        return 2
    except RunError as error:
        if error.one_rank or speaks:
            report("failed: %s" % error)
        return 1
    except Stopped as stop:
        if speaks:
            advice = "the same command goes on from the checkpoint" if stop.is_saved else "nothing is saved"
            report("stopped by %s; %s in --output-dir" % (name_of(stop.number), advice))
        return 128 + stop.number
    except KeyboardInterrupt:
        if speaks:
            report("interrupted; a checkpoint in --output-dir is whole and can be resumed")
        return 130
    except Exception as error:
        if lost_a_peer(error):
            time.sleep(5)  # the launcher ends this process meanwhile; the rank that failed has told why
            report("failed: another process of the run is gone (%s)" % str(error).strip().split("\n")[0])
        else:
            report_exception(error)
        return 1
    return 0


def report_exception(error):
    """One line where memory or a file is what is wrong, else the traceback of the exception being handled."""
    if out_of_memory(error):
        report("failed: out of memory (%s): lower --batch-size, --input-size or --num-workers" % error)
    elif failed_to_compile(error):
        report("failed: torch.compile: %s: use --compile off" % str(error).strip().split("\n")[0])
    elif isinstance(error, OSError) and error.filename is not None:
        report("failed: %s" % error)
    else:
        _write(traceback.format_exc().rstrip())


def report(text):
    """One message on stderr, and in the log file where one is open; the line breaks in a path or value are escaped."""
    _write(utils.one_line(text))


def _write(text):
    sys.stderr.write("main.py: %s\n" % text)
    utils.append_to_log_file("main.py: %s" % text)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
