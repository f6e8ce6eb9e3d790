"""Train, evaluate or time a model: `python main.py --data-path DIR --output-dir DIR`, or the same under torchrun."""

import os
import re
import sys
import time
import traceback

import args as options_module
import build
import datasets
import engine
import models
import output
import utils
from runtime import checkpoint
from runtime.binding import bind_cores
from runtime.compat import release_versions
from runtime.device import out_of_memory, select_device
from runtime.distributed import Ranks, lost_a_peer, read_launch
from runtime.errors import RunError, UserError


def run(argv):
    """Do what the command line `argv` asks for."""
    options = options_module.parse(argv)
    if options.model not in models.MODEL_NAMES:
        raise UserError("--model %s is unknown; there are %s" % (options.model, ", ".join(models.MODEL_NAMES)))
    launch = read_launch(os.environ, options.local_rank)
    if options.bind_cpu:
        bind_cores(launch.local_rank, launch.local_world_size or launch.world_size)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    device.make_deterministic() if options.deterministic else device.prefer_speed()
    ranks = Ranks(launch, device, options.dist_url, options.dist_timeout)
    logger = utils.open_log(options.model, ranks.is_main)
    try:
        start = find_start(options, ranks)
        loaders = datasets.build_loaders(options, ranks, start.loaded and start.loaded.get("classes"))
        current = build.build_run(options, ranks, logger, len(loaders.classes), start)
        begin(options, current, start)
        build.describe(options, current, loaders, start)
        if options.throughput:
            engine.throughput(current, current.bare_model, loaders.val)
        elif options.eval:
            result, average = evaluate(current, loaders.val)
            if options.eval_json and ranks.is_main:
                output.write_evaluation(options, current, result, average)
        else:
            train(options, current, loaders, start)
        ranks.close()  # not after a failure: it would wait for processes that may be gone
    finally:
        output.release()


def find_start(options, ranks):
    """The Plan, on which all processes agree."""
    start = output.plan(options, ranks.world_size)
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
        if options.output_dir:
            utils.log_to_file(output.log_path(options))
        if message:
            current.logger.info(message)
        for line in options_module.warnings_of(options):
            current.logger.warning(line)
    current.ranks.barrier()


def train(options, current, loaders, start):
    """Train the remaining epochs; after each evaluate, save, and write the results."""
    record = output.Record(options, current, loaders, start)
    saves = bool(options.output_dir) and current.ranks.is_main
    if saves:
        output.write_config(options, release_versions())

    def save(epoch, within=None, is_best=False):
        if saves:
            checkpoint.save(dict(current.state_dict(), **record.payload(epoch, within)), options.output_dir, is_best)

    for epoch in range(record.next_epoch, options.epochs):
        stats = engine.train_one_epoch(
            current,
            loaders.train,
            epoch,
            record.within,
            options.checkpoint_steps,
            lambda within, epoch=epoch: save(epoch - 1, within),
        )
        is_best = record.add(epoch, stats, *evaluate(current, loaders.val))
        current.logger.info("Max accuracy: %.2f%%", record.max_accuracy)
        save(epoch, is_best=is_best)
        if saves:
            record.write("running")
    if saves:
        if not os.path.exists(os.path.join(options.output_dir, checkpoint.LATEST)):
            save(record.next_epoch - 1)  # a finished run that was resumed into a new folder
        record.write("complete")
    current.logger.info("Training time %s", utils.clock_text(record.seconds))
    for line in record.closing_lines():
        current.logger.info(line)


def evaluate(current, batches):
    """Accuracy of the weights and of their average (None without one), logged."""
    result = engine.evaluate(current, current.bare_model, batches)
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
    """Run and return the exit status: 0, 2 for bad input, 1 for a run that failed, 130 when interrupted."""
    speaks = not re.fullmatch("0*[1-9][0-9]*", os.environ.get("LOCAL_RANK", "0"))  # the first process of a machine
    try:
        run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        if error.one_rank or speaks:
            report(utils.one_line("error: %s" % error))
        return 2
    except RunError as error:
        if speaks:
            report(utils.one_line("failed: %s" % error))
        return 1
    except KeyboardInterrupt:
        if speaks:
            report("interrupted; a checkpoint in --output-dir is whole and can be resumed")
        return 130
    except Exception as error:
        if lost_a_peer(error):
            time.sleep(5)  # the launcher ends this process meanwhile; the rank that failed has told why
        report(describe_failure(error))
        return 1
    return 0


def describe_failure(error):
    """One line where memory or a file is what is wrong, else the traceback of the exception being handled."""
    if out_of_memory(error):
        return utils.one_line("failed: out of memory (%s): lower --batch-size, --input-size or --num-workers" % error)
    if isinstance(error, OSError) and error.filename is not None:
        return utils.one_line("failed: %s" % error)
    return traceback.format_exc().rstrip()


def report(text):
    """One message on stderr, and in the log file where one is open."""
    sys.stderr.write("main.py: %s\n" % text)
    utils.append_to_log_file("main.py: %s" % text)


if __name__ == "__main__":
    sys.exit(main())
