"""One optimizer step: the gradients of its batches, and what to do about a loss that is not finite."""

import math
from collections import namedtuple

import torch

from runtime.errors import NotFiniteError, RunError

MOST_SKIPS = 25  # steps skipped in a row before the run is taken for lost

StepResult = namedtuple("StepResult", "losses images is_skipped")  # losses (parts,) on the device


def take_gradients(run, parts, epoch, step):
    """Leave in the parameters the mean gradients over the batches `parts`: in each of `run.rounds` rounds one for each
    virtual rank of this process.

    Each batch has its own mixup, randomness and batch statistics. The running statistics are updated by the first of
    each round alone, as the first rank's count under DDP. With `run.skips_not_finite` a step with such a loss on any
    rank leaves neither gradients nor statistics.
    """
    losses, images, kept = [], 0, None
    before = _buffers(run) if run.skips_not_finite else None
    places, ranks = _places(run, step), run.ranks.virtual_ranks
    for (number, rank), (inputs, targets) in zip(places, parts):
        more_follow = (number, rank) != places[-1]
        run.seed_step(epoch, number, rank)
        inputs, targets = run.mix(inputs, targets)
        run.ranks.mark_waiting()  # the forward pass waits for the first rank's statistics
        with run.ranks.delays_sums(run.model, more_follow):
            with run.precision.autocast():
                loss = run.criterion(inputs, run.model(inputs), targets)
            losses.append(loss.detach())
            if run.skips_not_finite and run.ranks.any(not math.isfinite(loss.item())):
                _restore(run, before)
                run.optimizer.zero_grad()
                return StepResult(torch.stack(losses), 0, True)
            run.ranks.mark_waiting()
            run.precision.backward(loss if len(places) == 1 else loss / len(places), run.optimizer, more_follow)
        images += len(inputs)
        if len(ranks) > 1 and rank == ranks[0]:
            kept = _buffers(run)
        elif rank == ranks[-1] and kept is not None:
            _restore(run, kept)
    return StepResult(torch.stack(losses), images, False)


def _places(run, step):
    """[(number of the batch in the epoch of its virtual rank, virtual rank)] of a step's batches in this process."""
    numbers = range(step * run.rounds, (step + 1) * run.rounds)
    return [(number, rank) for number in numbers for rank in run.ranks.virtual_ranks]


def _buffers(run):
    return [buffer.clone() for buffer in run.bare_model.buffers()]


@torch.no_grad()
def _restore(run, values):
    for buffer, value in zip(run.bare_model.buffers(), values):
        buffer.copy_(value)


def stop_unless_finite(run, batches, epoch, step, losses, own):
    """NotFiniteError where one of `losses`, the ranks' means of the steps up to `step`, is not finite.

    `own` (steps, parts) are this process's own.
    """
    bad = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
    if not bad:
        return
    first = step + 1 - len(losses) + bad[0]
    facts = _where(run, batches, epoch, first, own[bad[0]].tolist())
    facts["noticed_at_step"] = step
    raise NotFiniteError(
        "%s: nothing was saved since; lower --lr, set --clip-grad, or pass --on-nonfinite skip" % _text(facts), facts
    )


def note_skipped(run, batches, epoch, step, losses):
    """Log a skipped step; RunError after too many in a row."""
    run.skipped_in_a_row += 1
    facts = _where(run, batches, epoch, step, losses.tolist())
    run.logger.warning("%s: this step is skipped (images %s)", _text(facts), facts["indices"])
    if run.skipped_in_a_row >= MOST_SKIPS:
        raise RunError("%s, as in the %d steps before: lower --lr or set --clip-grad" % (_text(facts), MOST_SKIPS - 1))


def _where(run, batches, epoch, step, own):
    """Which ranks' losses of a step are not finite, and which images they had; all ranks must ask."""
    flags = [0.0] * (run.ranks.virtual_size * run.rounds)
    for (number, rank), loss in zip(_places(run, step), own):
        flags[rank * run.rounds + number % run.rounds] = float(not math.isfinite(loss))
    images = {}
    for rank, part in (divmod(place, run.rounds) for place, flag in enumerate(run.ranks.added(flags)) if flag):
        images.setdefault(rank, []).extend(batches.images_of(epoch, step * run.rounds + part, rank))
    return {
        "epoch": epoch,
        "step": step,
        "ranks": list(images),
        "indices": {rank: [index for index, _ in used] for rank, used in images.items()},
        "files": {rank: [path for _, path in used] for rank, used in images.items()},
    }


def _text(facts):
    ranks = ", ".join(str(rank) for rank in facts["ranks"])
    return "the loss is not finite on rank %s at epoch %d, step %d" % (ranks, facts["epoch"], facts["step"])
