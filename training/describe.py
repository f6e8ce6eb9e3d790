"""The start block: what a run is about to do, in one record of the log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime.compat import release_versions
from training import optim
from training.losses import Distillation

if TYPE_CHECKING:
    from datasets import Loaders
    from options.parsing import Options
    from results.plan import Plan
    from training.run import Run


def log_start(options: Options, run: Run, loaders: Loaders, plan: Plan) -> None:
    """Log the start block, and warn if the batches are smaller than asked for."""
    rows = [
        *_machine_rows(options, run),
        *_model_rows(options, run),
        *_data_rows(run, loaders),
        *_recipe_rows(options, run, loaders),
        ("start", "from " + _start_text(options, plan)),
        ("output", os.path.abspath(options.output_dir) if options.output_dir else "NOTHING IS SAVED: no --output-dir"),
        ("versions", release_versions()),
    ]
    run.logger.info("run\n" + "\n".join("    %-13s %s" % row for row in rows))
    for line in loaders.warnings() if run.ranks.is_main else ():
        run.logger.warning(line)
    if loaders.train and loaders.train.batch_size < options.batch_size:
        run.logger.warning(
            "--batch-size %d is more than an epoch holds: %d is used", options.batch_size, loaders.train.batch_size
        )


def _machine_rows(options: Options, run: Run) -> list[tuple[str, str]]:
    processes = "%d process(es)" % run.ranks.world_size
    if run.ranks.virtual_size != run.ranks.world_size:
        processes += " for %d virtual ranks" % run.ranks.virtual_size
    rows = [("device", "%s, %s" % (run.device, processes)), ("precision", run.precision.name)]
    if options.grad_compression != "none" and options.trains and run.ranks.world_size > 1:
        rows.append(("gradients", "exchanged as %s" % options.grad_compression))
    return rows


def _model_rows(options: Options, run: Run) -> list[tuple[str, str]]:
    parameters = sum(parameter.numel() for parameter in run.bare_model.parameters())
    rows = [("model", "%s at %d pixels, %s parameters" % (options.model, options.input_size, format(parameters, ",")))]
    if hasattr(run.bare_model, "token_layout"):
        rows.append(("token layout", run.bare_model.token_layout))
    how = "compiled at their first use" if run.is_compiled else "not compiled"
    rows.append(("blocks", "by fused kernels" if run.is_fused else how))
    return rows


def _data_rows(run: Run, loaders: Loaders) -> list[tuple[str, str]]:
    train_images = loaders.train.image_count if loaders.train else "no"
    images = "%s training, %d validation" % (train_images, loaders.val.image_count)
    places = [batches.dataset.images.source.text() for batches in (loaders.train, loaders.val) if batches]
    return [("images", images), ("data", ", ".join(places)), ("classes", str(len(loaders.classes)))]


def _recipe_rows(options: Options, run: Run, loaders: Loaders) -> list[tuple[str, str]]:
    """Return the rows that concern training alone."""
    rows = []
    if loaders.train:
        batch_size, accumulated, ranks = loaders.train.batch_size, run.grad_accum_steps, run.ranks.virtual_size
        steps = "" if accumulated == 1 else ", accumulated over %d batches" % accumulated
        rows.append(("global batch", "%d (%d a rank%s)" % (batch_size * accumulated * ranks, batch_size, steps)))
        rows.append(("peak LR", "%g" % optim.scaled_lr(options, ranks)))
        rows.append(("epochs", "%d of %d steps" % (options.epochs, len(loaders.train))))
    if isinstance(run.criterion, Distillation):
        rows.append(("teacher", "%s, %s" % (options.teacher_model, options.distillation_type)))
    return rows


def _start_text(options: Options, plan: Plan) -> str:
    if plan.path and plan.continues and plan.finetune:
        return "%s, of the run that began with the weights of %s" % (plan.path, plan.finetune)
    if plan.path:
        return plan.path
    return "the weights of " + options.finetune if options.finetune and options.trains else "random weights"
