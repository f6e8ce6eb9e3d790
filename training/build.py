"""From options to a Run: the model, what trains it, and the state it starts from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import torch

from checkpoints import loading
from models import families
from models.fused.choice import Setting, fuse_blocks
from runtime import compiling
from runtime.amp import select_precision
from runtime.compat import Mixup, create_model
from runtime.distributed import sync_statistics
from runtime.ema import Ema, NoEma
from runtime.errors import UserError
from runtime.gradients import Averaging, parameters_without_gradient
from runtime.seeding import position_seed, seed_host
from runtime.signals import StopSignals
from training import finetune, losses, optim, teacher
from training.run import Run

if TYPE_CHECKING:
    import logging

    from torch import nn

    from options.parsing import Options
    from results.plan import Plan
    from runtime.amp import Precision
    from runtime.device import Device
    from runtime.distributed import Ranks


def build_run(
    options: Options,
    ranks: Ranks,
    logger: logging.Logger,
    classes: Sequence[str],
    plan: Plan,
    class_weights: Sequence[float] | None = None,
) -> Run:
    """Return the Run for `options`, in the state that `plan` starts from; the order of the steps matters.

    `class_weights` are those of the classes in the training loss; None for all alike.
    """
    device, trains = ranks.device, options.trains
    # The model with its initial weights, those of --finetune among them. Its parameters move to the device before the
    # optimizer refers to them.
    model = build_weights(options, logger, classes, plan)
    syncs = trains and syncs_statistics(options, ranks, logger)
    model = (sync_statistics(model) if syncs else model).to(device.torch_device)
    unused = unused_parameters(options, ranks, model, logger)
    # The optimizer and its learning rate.
    lr = optim.scaled_lr(options, ranks.virtual_size)
    optimizer = optim.build_optimizer(options, model, lr)
    learning_rate = optim.LearningRate(options, optimizer, lr)
    # The precision may change model and optimizer; apex must do so before DDP wraps the model.
    precision = select_precision(options.amp, device, options.amp_dtype, options.opt_level)
    setting = Setting(device, precision, trains, options.deterministic, options.compile == "on", syncs)
    is_fused = fuse_blocks(model, options.fused, setting, ranks, logger)
    is_compiled = compiling.compiles("off" if syncs or is_fused else options.compile, device, logger.warning)
    if is_compiled:
        compiling.compile_blocks(model, options.compile)
    model, optimizer = precision.prepare(model, optimizer)
    # The EMA copies the bare model, not the one wrapped by DDP.
    ema = build_ema(options, model, plan)
    # DDP, if there are several ranks, and all that follows from the options alone.
    run = Run(
        device=device,
        ranks=ranks,
        model=ranks.wrap(model, averaging_of(options, ranks, precision, unused, logger)) if trains else model,
        bare_model=model,
        ema=ema,
        criterion=build_criterion(options, device, classes, class_weights),
        optimizer=optimizer,
        precision=precision,
        learning_rate=learning_rate,
        mixup=build_mixup(options, len(classes)),
        mixup_off_epoch=options.mixup_off_epoch,
        clip_grad=options.clip_grad,
        seed=options.seed,
        logger=logger,
        print_freq=options.print_freq,
        show_bar=ranks.is_main and sys.stderr.isatty(),
        is_compiled=is_compiled,
        is_fused=is_fused,
        skips_not_finite=options.on_nonfinite == "skip",
        grad_accum_steps=options.grad_accum_steps,
        stop=StopSignals(logger.warning),
    )
    # A checkpoint's state, last: into what the precision has prepared.
    if plan.loaded:
        load(options, run, plan)
    return run


def build_ema(options: Options, model: nn.Module, plan: Plan) -> Ema | NoEma:
    """Return the EMA of the bare `model`; without training only if the checkpoint has EMA weights to evaluate."""
    is_in_checkpoint = bool(plan.loaded and plan.loaded.get("model_ema"))
    if not options.model_ema or not (options.trains or is_in_checkpoint):
        return NoEma()
    return Ema(model, options.model_ema_decay, options.model_ema_force_cpu, options.model_ema_warmup)


def syncs_statistics(options: Options, ranks: Ranks, logger: logging.Logger) -> bool:
    """Return whether `--sync-bn` is set and there are processes to synchronise; UserError if it cannot work."""
    if not options.sync_bn:
        return False
    if not ranks.can_sync_statistics():
        logger.warning("--sync-bn has no effect: there is one process")
        return False
    if options.compile == "on":
        raise UserError("--sync-bn: its blocks are not compiled; leave out --compile on")
    return True


def unused_parameters(options: Options, ranks: Ranks, model: nn.Module, logger: logging.Logger) -> list[str]:
    """Return the names of the parameters that get no gradient in a run of several processes, and log them.

    The blocks must not be compiled yet: they would be compiled for this one batch, too.
    """
    if not options.trains or ranks.world_size == 1:
        return []
    side = options.input_size
    found = parameters_without_gradient(model, torch.zeros(1, 3, side, side, device=ranks.device.torch_device))
    if found:
        message = "%d parameters get no gradient (%s), so the processes look for such ones in each step"
        logger.warning(message, len(found), found[0])
    return found


def averaging_of(
    options: Options, ranks: Ranks, precision: Precision, unused: Sequence[str], logger: logging.Logger
) -> Averaging:
    """Return how gradients are averaged; UserError if `--grad-compression` cannot work."""
    compression = options.grad_compression
    if compression != "none" and ranks.world_size == 1:
        logger.warning("--grad-compression has no effect: there is one process")
        compression = "none"
    if compression != "none" and not precision.may_share_gradients:
        raise UserError("--grad-compression %s does not work with apex: pass --amp native or none" % compression)
    return Averaging(bool(unused), precision.may_share_gradients, compression)


def build_weights(options: Options, logger: logging.Logger, classes: Sequence[str], plan: Plan) -> nn.Module:
    """Return the model with the weights of `--finetune`, or with random ones, which a checkpoint's may replace."""
    if plan.loaded or not options.trains or not options.finetune:
        return build_model(options, len(classes), loading.options_of(plan.loaded or {}))
    source = finetune.read(options.finetune)
    _check_recorded(source.path, source.options, options, ("model", "stem_type", "shared_spatial_func"))
    model = build_model(options, len(classes), source.options)
    for line in finetune.load_weights(source, model, classes):
        logger.info("--finetune: %s", line)
    return model


def build_model(options: Options, num_classes: int, recorded: Mapping[str, Any]) -> nn.Module:
    """Return the model with random weights from `--seed`.

    The token layout is that of the options, or else of the `recorded` ones, which a checkpoint was written with.
    """
    families.check_options(options.model, options.as_dict())
    chosen = {name: getattr(options, name) for name in families.own_options(options.model)}
    keywords = families.own_keywords(options.model, recorded, **chosen)
    if options.drop_path is not None:
        keywords["drop_path_rate"] = options.drop_path
    seed_host(position_seed("weights", options.seed))
    try:
        return create_model(
            options.model,
            num_classes=num_classes,
            image_size=options.input_size,
            drop_rate=options.drop,
            **keywords,
        )
    except (ValueError, TypeError) as error:
        raise UserError("--model %s --input-size %d: %s" % (options.model, options.input_size, error)) from None


def build_criterion(
    options: Options, device: Device, classes: Sequence[str], class_weights: Sequence[float] | None = None
) -> nn.Module:
    """Return the training criterion: of the targets and, with `--distillation-type`, of a teacher's outputs."""
    weights = None if class_weights is None else torch.tensor(class_weights, device=device.torch_device)
    criterion = losses.build_criterion(options.mixes, options.smoothing, weights, options.loss)
    if options.distillation_type == "none" or not options.trains:
        return criterion
    loaded = teacher.load_teacher(options, device.torch_device, classes, create_model)
    kind, alpha, tau = options.distillation_type, options.distillation_alpha, options.distillation_tau
    return losses.Distillation(criterion, loaded, kind, alpha, tau)


def build_mixup(options: Options, num_classes: int) -> Mixup | None:
    """Return timm's Mixup, or None if the options switch mixup and cutmix off."""
    if not options.mixes:
        return None
    return Mixup(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        cutmix_minmax=options.cutmix_minmax,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        mode=options.mixup_mode,
        label_smoothing=options.smoothing,
        num_classes=num_classes,
    )


def load(options: Options, run: Run, plan: Plan) -> None:
    """Load the checkpoint into the run; UserError if it belongs to another model or cannot be resumed."""
    if plan.loaded is None or plan.path is None:
        return
    recorded = loading.options_of(plan.loaded)
    _check_recorded(plan.path, recorded, options, ("model", "input_size", "stem_type", "shared_spatial_func"))
    loading.check_fits(plan.path, plan.loaded["model"], run.bare_model)
    if run.ema.module is not None and plan.loaded.get("model_ema"):
        loading.check_fits(plan.path, plan.loaded["model_ema"], run.ema.module)
    if not options.trains:
        run.bare_model.load_state_dict(plan.loaded["model"])
        if run.ema.module is not None:
            run.ema.load_state_dict(plan.loaded["model_ema"])
        return
    before, now = plan.loaded.get("world_size", run.ranks.virtual_size), run.ranks.virtual_size
    if before != now:
        raise UserError(
            "%s was written by a run of %d process(es), this run has %d: resume with %d (--nproc=%d in the test/*.sh "
            "wrappers), or with fewer that emulate them (--virtual-ranks %d), or start in another --output-dir"
            % (plan.path, before, now, before, before, before)
        )
    if recorded.get("opt", options.opt) != options.opt:
        raise UserError("%s holds the state of --opt %s, not of %s" % (plan.path, recorded["opt"], options.opt))
    if (recorded.get("layer_decay", 1) == 1) != (options.layer_decay == 1):
        was = recorded.get("layer_decay", 1)
        raise UserError("%s holds the state of --layer-decay %s: pass it" % (plan.path, was))
    if plan.is_within_epoch:
        _check_order(plan.path, recorded, options)
    loading.load_into(plan.path, run, plan.loaded)


def _check_order(path: str, recorded: Mapping[str, Any], options: Options) -> None:
    """Raise UserError if the rest of an epoch would have other images, or the same in another order."""
    before_they_existed = {"grad_accum_steps": 1, "balanced_sampling": 0.0}
    for name in ("batch_size", "grad_accum_steps", "seed", "repeated_aug", "balanced_sampling"):
        now = getattr(options, name)
        was = recorded.get(name, before_they_existed.get(name, now))
        if was == now:
            continue
        flag = "--" + name.replace("_", "-")
        words = "%s %s" % (flag, was)
        if isinstance(was, bool):
            words = flag if was else "--no" + flag[1:]
        raise UserError("%s stopped within an epoch: resume with its %s" % (path, words))


def _check_recorded(path: str | None, recorded: Mapping[str, Any], options: Options, names: Sequence[str]) -> None:
    """Raise UserError if an option has another value than the one that the checkpoint was written with."""
    for name in names:
        was, now, flag = recorded.get(name), getattr(options, name), "--" + name.replace("_", "-")
        if was is None or was == now:
            continue
        remedy = "pass %s %s" % (flag, was)
        if isinstance(was, bool):
            remedy = ("pass " if was else "leave out ") + flag
        raise UserError("%s was made with %s %s, not %s: %s" % (path, flag, was, now, remedy))
