"""From options to a Run: the model, what trains it, and the state it starts from."""

import os
import sys

from checkpoints import store
from models import families
from runtime import compiling
from runtime.amp import select_precision
from runtime.compat import Mixup, create_model, release_versions
from runtime.distributed import sync_statistics
from runtime.ema import Ema, NoEma
from runtime.errors import UserError
from runtime.seeding import position_seed, seed_host
from runtime.stops import StopSignals
from training import finetune, losses, optim, teacher
from training.run import Run


def build_run(options, ranks, logger, classes, plan):
    """model -> device -> optimizer -> precision -> EMA -> DDP -> load: apex must come before DDP, EMA copies the
    bare module, and state is loaded into what the precision has prepared."""
    device = ranks.device
    trains = options.trains
    model = build_weights(options, logger, classes, plan)
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
    has_average = bool(plan.loaded and plan.loaded.get("model_ema"))
    keeps_average = options.model_ema and (trains or has_average)
    ema = NoEma()
    if keeps_average:
        ema = Ema(model, options.model_ema_decay, options.model_ema_force_cpu, options.model_ema_warmup)
    run = Run(
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
    if plan.loaded:
        load(options, run, plan)
    return run


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


def build_weights(options, logger, classes, plan):
    """The model with the weights of `--finetune`, unless a checkpoint's follow, else with fresh ones."""
    if plan.loaded or not options.trains or not options.finetune:
        return build_model(options, len(classes), store.options_of(plan.loaded or {}))
    source = finetune.read(options.finetune)
    _check_recorded(source.path, source.options, options, ("model", "stem_type", "shared_spatial_func"))
    model = build_model(options, len(classes), source.options)
    for line in finetune.begin_with(source, model, classes):
        logger.info("--finetune: %s", line)
    return model


def build_model(options, num_classes, recorded):
    """The model with weights drawn from `--seed`; the token layout is the `recorded` one, unless one is asked for."""
    families.check_options(options.model, options.as_dict())
    family = families.family_of(options.model)
    keywords = family.keywords(recorded, **{name: getattr(options, name) for name in family.options})
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


def build_criterion(options, device, num_classes):
    """What is learnt: from the targets, and with `--distillation-type` from a teacher."""
    criterion = losses.build_criterion(options.mixes, options.smoothing)
    if options.distillation_type == "none" or not options.trains:
        return criterion
    loaded = teacher.load_teacher(options, device.torch_device, num_classes, create_model)
    kind, alpha, tau = options.distillation_type, options.distillation_alpha, options.distillation_tau
    return losses.Distillation(criterion, loaded, kind, alpha, tau)


def build_mixup(options, num_classes):
    """timm's Mixup as the options ask, or None."""
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


def load(options, run, plan):
    """Put the checkpoint into the run; UserError where it belongs to another model or cannot be gone on with."""
    recorded = store.options_of(plan.loaded)
    _check_recorded(plan.path, recorded, options, ("model", "input_size", "stem_type", "shared_spatial_func"))
    store.check_fits(plan.path, plan.loaded["model"], run.bare_model)
    if run.ema.module is not None and plan.loaded.get("model_ema"):
        store.check_fits(plan.path, plan.loaded["model_ema"], run.ema.module)
    if not options.trains:
        run.bare_model.load_state_dict(plan.loaded["model"])
        if run.ema.module is not None:
            run.ema.load_state_dict(plan.loaded["model_ema"])
        return
    before, now = plan.loaded.get("world_size", run.ranks.virtual_size), run.ranks.virtual_size
    if before != now:
        raise UserError(
            "%s was written by a run of %d process(es), this run has %d: go on with %d (--nproc=%d in the test/*.sh "
            "wrappers), or with fewer that do their work (--virtual-ranks %d), or start in another --output-dir"
            % (plan.path, before, now, before, before, before)
        )
    if recorded.get("opt", options.opt) != options.opt:
        raise UserError("%s holds the state of --opt %s, not of %s" % (plan.path, recorded["opt"], options.opt))
    if (recorded.get("layer_decay", 1) == 1) != (options.layer_decay == 1):
        was = recorded.get("layer_decay", 1)
        raise UserError("%s holds the state of --layer-decay %s: pass it" % (plan.path, was))
    for name in ("batch_size", "grad_accum_steps") if plan.loaded.get("step") else ():
        if recorded.get(name, 1) != getattr(options, name):
            was = "--%s %s" % (name.replace("_", "-"), recorded.get(name, 1))
            raise UserError("%s stopped within an epoch: go on with its %s" % (plan.path, was))
    store.load_into(plan.path, run, plan.loaded)


def _check_recorded(path, recorded, options, names):
    """UserError where an option has another value than the one that the checkpoint was made with."""
    for name in names:
        was, now, flag = recorded.get(name), getattr(options, name), "--" + name.replace("_", "-")
        if was is not None and was != now:
            remedy = {True: "pass " + flag, False: "leave out " + flag}.get(was, "pass %s %s" % (flag, was))
            raise UserError("%s was made with %s %s, not %s: %s" % (path, flag, was, now, remedy))


def describe(options, run, loaders, plan):
    """One block that says what is about to happen."""
    parameters = sum(parameter.numel() for parameter in run.bare_model.parameters())
    world_size, virtual_size = run.ranks.world_size, run.ranks.virtual_size
    processes = "%d process(es)" % world_size
    if virtual_size != world_size:
        processes += " for %d virtual ranks" % virtual_size
    train_images = loaders.train.image_count if loaders.train else "no"
    rows = [
        ("device", "%s, %s" % (run.device, processes)),
        ("precision", run.precision.name),
        ("model", "%s at %d pixels, %s parameters" % (options.model, options.input_size, "{:,}".format(parameters))),
        ("blocks", "compiled at their first use" if run.is_compiled else "not compiled"),
        ("images", "%s train, %d val" % (train_images, loaders.val.image_count)),
        ("classes", len(loaders.classes)),
    ]
    if hasattr(run.bare_model, "token_layout"):
        rows.insert(4, ("token layout", run.bare_model.token_layout))
    if loaders.train:
        batch_size = loaders.train.batch_size
        rounds = "" if run.rounds == 1 else " in each of %d rounds" % run.rounds
        global_batch = batch_size * run.rounds * virtual_size
        rows.append(("global batch", "%d (%d a rank%s)" % (global_batch, batch_size, rounds)))
        rows.append(("peak LR", "%g" % optim.scaled_lr(options, virtual_size)))
        rows.append(("epochs", "%d of %d steps" % (options.epochs, len(loaders.train))))
    if isinstance(run.criterion, losses.Distillation):
        rows.append(("teacher", "%s, %s" % (options.teacher_model, options.distillation_type)))
    begun = "the weights of %s" % options.finetune if options.finetune and loaders.train else ""
    rows.append(("start", "from %s" % (plan.path or begun or "random weights")))
    folder = os.path.abspath(options.output_dir) if options.output_dir else "NOTHING IS SAVED: no --output-dir"
    rows.append(("output", folder))
    rows.append(("versions", release_versions()))
    run.logger.info("\n" + "\n".join("    %-13s %s" % row for row in rows))
    if loaders.train and loaders.train.batch_size < options.batch_size:
        run.logger.warning(
            "--batch-size %d is more than an epoch holds: %d is used", options.batch_size, loaders.train.batch_size
        )
