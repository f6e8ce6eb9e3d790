"""From options to a Run: the model, what trains it, and the state it starts from."""

import os
import sys

import args as options_module
import engine
import losses
import optim
import teacher
import transfer
from models.smlp import layout_of
from runtime import checkpoint, compiling
from runtime.amp import select_precision
from runtime.compat import Mixup, create_model, release_versions
from runtime.distributed import sync_statistics
from runtime.ema import Ema, NoEma
from runtime.errors import UserError
from runtime.seeding import position_seed, seed_host
from runtime.stops import StopSignals


def build_run(options, ranks, logger, classes, start):
    """model -> device -> optimizer -> precision -> EMA -> DDP -> load: apex must come before DDP, EMA copies the
    bare module, and state is loaded into what the precision has prepared."""
    device = ranks.device
    trains = not (options.eval or options.throughput)
    model = build_weights(options, logger, classes, start)
    syncs = trains and syncs_statistics(options, ranks, logger)
    model = (sync_statistics(model) if syncs else model).to(device.torch_device)
    is_compiled = compiling.compiles("off" if syncs else options.compile, device)
    if is_compiled:
        compiling.compile_blocks(model, options.compile)
    lr = optim.scaled_lr(options, ranks.virtual_size)
    optimizer = optim.build_optimizer(options, model, lr)
    learning_rate = optim.LearningRate(options, optimizer, lr)
    precision = select_precision(options.amp, device, options.amp_dtype, options.opt_level)
    model, optimizer = precision.prepare(model, optimizer)
    has_average = bool(start.loaded and start.loaded.get("model_ema"))
    keeps_average = options.model_ema and (trains or has_average)
    ema = NoEma()
    if keeps_average:
        ema = Ema(model, options.model_ema_decay, options.model_ema_force_cpu, options.model_ema_warmup)
    current = engine.Run(
        device=device,
        ranks=ranks,
        model=ranks.wrap(model) if trains else model,
        bare_model=model,
        ema=ema,
        criterion=build_criterion(options, device, len(classes)),
        optimizer=optimizer,
        precision=precision,
        learning_rate=learning_rate,
        mixup=build_mixup(options, len(classes)),
        clip_grad=options.clip_grad,
        seed=options.seed,
        logger=logger,
        print_freq=options.print_freq,
        show_bar=ranks.is_main and sys.stderr.isatty(),
        is_compiled=is_compiled,
        skips_not_finite=options.on_nonfinite == "skip",
        rounds=options.grad_accum_steps,
        stop=StopSignals(logger.warning),
    )
    if start.loaded:
        load(options, current, start)
    return current


def syncs_statistics(options, ranks, logger):
    """Whether `--sync-bn` is asked for and there are processes to synchronise; UserError where it cannot work."""
    if not options.sync_bn:
        return False
    if not ranks.can_sync_statistics():
        logger.warning("--sync-bn has no effect: there is one process")
        return False
    if options.compile == "on":
        raise UserError("--sync-bn: its blocks are not compiled; leave out --compile on")
    return True


def build_weights(options, logger, classes, start):
    """The model with the weights of `--finetune`, unless a checkpoint's follow, else with fresh ones."""
    if start.loaded or options.eval or options.throughput or not options.finetune:
        return build_model(options, len(classes), checkpoint.options_of(start.loaded or {}))
    source = transfer.read(options.finetune)
    _check_recorded(source.path, source.options, options, ("model", "stem_type", "shared_spatial_func"))
    model = build_model(options, len(classes), source.options)
    for line in transfer.begin_with(source, model, classes):
        logger.info("--finetune: %s", line)
    return model


def build_model(options, num_classes, recorded):
    """The model with weights drawn from `--seed`; the token layout is the `recorded` one, unless one is asked for."""
    keywords = _keywords_of_family(options, recorded)
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


def _keywords_of_family(options, recorded):
    """What only the models of one family take; UserError for such an option of another family."""
    given = {
        "smlpnet": {"token_layout": options.token_layout},
        "spach": {"stem_type": options.stem_type, "shared_spatial_func": options.shared_spatial_func},
    }
    own = options.model.split("_")[0]
    for family, keywords in given.items():
        for name, value in keywords.items():
            if family != own and value not in (None, False, "conv1"):
                flag = "--" + name.replace("_", "-")
                raise UserError("%s %s: --model %s has no such option" % (flag, value, options.model))
    keywords = given.get(own, {})
    if own == "smlpnet":
        keywords["token_layout"] = options.token_layout or layout_of(recorded)
    return keywords


def build_criterion(options, device, num_classes):
    """What is learnt: from the targets, and with `--distillation-type` from a teacher."""
    criterion = losses.build_criterion(options_module.mixes(options), options.smoothing)
    if options.distillation_type == "none" or options.eval or options.throughput:
        return criterion
    loaded = teacher.load_teacher(options, device.torch_device, num_classes, create_model)
    kind, alpha, tau = options.distillation_type, options.distillation_alpha, options.distillation_tau
    return losses.Distillation(criterion, loaded, kind, alpha, tau)


def build_mixup(options, num_classes):
    """timm's Mixup as the options ask, or None."""
    if not options_module.mixes(options):
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


def load(options, current, start):
    """Put the checkpoint into the run; UserError where it belongs to another model or cannot be gone on with."""
    recorded = checkpoint.options_of(start.loaded)
    _check_recorded(start.path, recorded, options, ("model", "input_size", "stem_type", "shared_spatial_func"))
    checkpoint.check_fits(start.path, start.loaded["model"], current.bare_model)
    if current.ema.module is not None and start.loaded.get("model_ema"):
        checkpoint.check_fits(start.path, start.loaded["model_ema"], current.ema.module)
    if options.eval or options.throughput:
        current.bare_model.load_state_dict(start.loaded["model"])
        if current.ema.module is not None:
            current.ema.load_state_dict(start.loaded["model_ema"])
        return
    before, now = start.loaded.get("world_size", current.ranks.virtual_size), current.ranks.virtual_size
    if before != now:
        raise UserError(
            "%s was written by a run of %d process(es), this run has %d: go on with %d (--nproc=%d in the test/*.sh "
            "wrappers), or with fewer that do their work (--virtual-ranks %d), or start in another --output-dir"
            % (start.path, before, now, before, before, before)
        )
    if recorded.get("opt", options.opt) != options.opt:
        raise UserError("%s holds the state of --opt %s, not of %s" % (start.path, recorded["opt"], options.opt))
    if (recorded.get("layer_decay", 1) == 1) != (options.layer_decay == 1):
        was = recorded.get("layer_decay", 1)
        raise UserError("%s holds the state of --layer-decay %s: pass it" % (start.path, was))
    for name in ("batch_size", "grad_accum_steps") if start.loaded.get("step") else ():
        if recorded.get(name, 1) != getattr(options, name):
            was = "--%s %s" % (name.replace("_", "-"), recorded.get(name, 1))
            raise UserError("%s stopped within an epoch: go on with its %s" % (start.path, was))
    checkpoint.load_into(start.path, current, start.loaded)


def _check_recorded(path, recorded, options, names):
    """UserError where an option has another value than the one that the checkpoint was made with."""
    for name in names:
        was, now, flag = recorded.get(name), getattr(options, name), "--" + name.replace("_", "-")
        if was is not None and was != now:
            remedy = {True: "pass " + flag, False: "leave out " + flag}.get(was, "pass %s %s" % (flag, was))
            raise UserError("%s was made with %s %s, not %s: %s" % (path, flag, was, now, remedy))


def describe(options, current, loaders, start):
    """One block that says what is about to happen."""
    parameters = sum(parameter.numel() for parameter in current.bare_model.parameters())
    world_size, virtual_size = current.ranks.world_size, current.ranks.virtual_size
    processes = "%d process(es)" % world_size
    if virtual_size != world_size:
        processes += " for %d virtual ranks" % virtual_size
    train_images = loaders.train.image_count if loaders.train else "no"
    rows = [
        ("device", "%s, %s" % (current.device, processes)),
        ("precision", current.precision.name),
        ("model", "%s at %d pixels, %s parameters" % (options.model, options.input_size, "{:,}".format(parameters))),
        ("blocks", "compiled at their first use" if current.is_compiled else "not compiled"),
        ("images", "%s train, %d val" % (train_images, loaders.val.image_count)),
        ("classes", len(loaders.classes)),
    ]
    if hasattr(current.bare_model, "token_layout"):
        rows.insert(4, ("token layout", current.bare_model.token_layout))
    if loaders.train:
        batch_size = loaders.train.batch_size
        rounds = "" if current.rounds == 1 else " in each of %d rounds" % current.rounds
        global_batch = batch_size * current.rounds * virtual_size
        rows.append(("global batch", "%d (%d a rank%s)" % (global_batch, batch_size, rounds)))
        rows.append(("peak LR", "%g" % optim.scaled_lr(options, virtual_size)))
        rows.append(("epochs", "%d of %d steps" % (options.epochs, len(loaders.train))))
    if isinstance(current.criterion, losses.Distillation):
        rows.append(("teacher", "%s, %s" % (options.teacher_model, options.distillation_type)))
    begun = "the weights of %s" % options.finetune if options.finetune and loaders.train else ""
    rows.append(("start", "from %s" % (start.path or begun or "random weights")))
    folder = os.path.abspath(options.output_dir) if options.output_dir else "NOTHING IS SAVED: no --output-dir"
    rows.append(("output", folder))
    rows.append(("versions", release_versions()))
    current.logger.info("\n" + "\n".join("    %-13s %s" % row for row in rows))
    if loaders.train and loaders.train.batch_size < options.batch_size:
        current.logger.warning(
            "--batch-size %d is more than an epoch holds: %d is used", options.batch_size, loaders.train.batch_size
        )
