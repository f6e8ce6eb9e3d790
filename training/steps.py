"""One optimizer step: the gradients of its batches, and what to do about a loss that is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Sequence

import torch

from runtime.errors import NotFiniteError, PeerError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from training.protocols import TrainBatches
    from training.run import Run

MOST_SKIPS = 25  # steps skipped in a row before the run ends


class ReadError(Exception):
    """A batch could not be read on this rank, by `cause`, or on another; no rank has begun to use it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def agreed_batches(run: Run, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches`; all ranks raise ReadError together where one cannot read its next batch.

    Where the ranks cannot agree, this rank alone raises what its loader raised.
    """
    if not run.ranks.agrees_on_each_batch:
        yield from batches
        return
    source, batch = iter(batches), None
    while True:
        failure: Exception | None = None
        try:
            batch = next(source, None)
        except Exception as error:  # whatever it is, the others must not wait for this rank in the step's collectives
            failure = error
        if run.ranks.any(failure is not None):
            raise ReadError(failure or PeerError("it cannot read its images")) from failure
        if batch is None:
            return
        yield batch


@dataclass
class StepResult:
    """The losses (parts,) of a step's batches on the device, and how many images were trained on."""

    losses: Tensor
    images: int
    is_skipped: bool


def take_gradients(run: Run, parts: Iterable[tuple[Tensor, Tensor]], epoch: int, step: int) -> StepResult:
    """Leave the mean gradients over the batches `parts` in the parameters.

    There is a batch for each virtual rank of this process, repeated `run.grad_accum_steps` times. Each batch has its
    own mixup, randomness and batch statistics. Of each round only the first batch updates the running statistics, as
    only the first rank's count under DDP. With `run.skips_not_finite`, a step whose loss is not finite on any rank
    leaves neither gradients nor statistics. A ReadError leaves the statistics as they were.
    """
    positions = _positions(run, step)
    before = _buffers(run) if run.skips_not_finite or len(positions) > 1 else []
    try:
        return _accumulate(run, parts, epoch, positions, before)
    except ReadError:
        _restore(run, before)
        raise


def _accumulate(
    run: Run, parts: Iterable[tuple[Tensor, Tensor]], epoch: int, positions: list[tuple[int, int]], before: list[Tensor]
) -> StepResult:
    losses, images, kept, ranks = [], 0, None, run.ranks.virtual_ranks
    for (number, rank), (inputs, targets) in zip(positions, parts):
        more_follow = (number, rank) != positions[-1]
        run.seed_step(epoch, number, rank)
        inputs, targets = run.mix(inputs, targets)
        run.ranks.mark_waiting()  # the forward pass waits for the first rank's statistics
        with run.ranks.no_sync(run.model, more_follow):
            with run.precision.autocast():
                loss = run.criterion(inputs, run.model(inputs), targets)
            losses.append(loss.detach())
            if run.skips_not_finite and run.ranks.any(not math.isfinite(loss.item())):
                _restore(run, before)
                run.optimizer.zero_grad()
                return StepResult(torch.stack(losses), 0, True)
            run.ranks.mark_waiting()
            mean = loss if len(positions) == 1 else loss / len(positions)
            run.precision.backward(mean, run.optimizer, more_follow)
        images += len(inputs)
        if len(ranks) > 1 and rank == ranks[0]:
            kept = _buffers(run)
        elif rank == ranks[-1] and kept is not None:
            _restore(run, kept)
    return StepResult(torch.stack(losses), images, False)


def _positions(run: Run, step: int) -> list[tuple[int, int]]:
    """Return (number of the batch in the epoch of its virtual rank, virtual rank) of a step's batches here."""
    numbers = range(step * run.grad_accum_steps, (step + 1) * run.grad_accum_steps)
    return [(number, rank) for number in numbers for rank in run.ranks.virtual_ranks]


def _buffers(run: Run) -> list[Tensor]:
    return [buffer.clone() for buffer in run.bare_model.buffers()]


@torch.no_grad()
def _restore(run: Run, values: list[Tensor]) -> None:
    for buffer, value in zip(run.bare_model.buffers(), values):
        buffer.copy_(value)


def stop_unless_finite(
    run: Run, batches: TrainBatches, epoch: int, step: int, losses: Sequence[float], own: Tensor
) -> None:
    """Raise NotFiniteError if one of `losses`, the ranks' means of the steps up to `step`, is not finite.

    `own` (steps, parts) are this process's losses.
    """
    bad = [position for position, loss in enumerate(losses) if not math.isfinite(loss)]
    if not bad:
        return
    first = step + 1 - len(losses) + bad[0]
    facts = _not_finite_facts(run, batches, epoch, first, own[bad[0]].tolist())
    facts["noticed_at_step"] = step
    raise NotFiniteError(
        "%s: nothing was saved since; lower --lr, set --clip-grad, or pass --on-nonfinite skip" % _text(facts), facts
    )


def note_skipped(run: Run, batches: TrainBatches, epoch: int, step: int, losses: Tensor) -> None:
    """Log a skipped step; raise RunError after too many in a row."""
    run.skipped_in_a_row += 1
    facts = _not_finite_facts(run, batches, epoch, step, losses.tolist())
    run.logger.warning("%s: this step is skipped (images %s)", _text(facts), facts["indices"])
    if run.skipped_in_a_row >= MOST_SKIPS:
        raise RunError("%s, as in the %d steps before: lower --lr or set --clip-grad" % (_text(facts), MOST_SKIPS - 1))


def _not_finite_facts(run: Run, batches: TrainBatches, epoch: int, step: int, own: list[float]) -> dict[str, Any]:
    """Return which ranks' losses of a step are not finite, and which images they had; every rank must call this."""
    rounds = run.grad_accum_steps
    flags = [0.0] * (run.ranks.virtual_size * rounds)
    for (number, rank), loss in zip(_positions(run, step), own):
        flags[rank * rounds + number % rounds] = float(not math.isfinite(loss))
    images: dict[int, list[tuple[int, str]]] = {}
    for position, flag in enumerate(run.ranks.sum_list(flags)):
        if flag:
            rank, part = divmod(position, rounds)
            images.setdefault(rank, []).extend(batches.images_of(epoch, step * rounds + part, rank))
    return {
        "epoch": epoch,
        "step": step,
        "ranks": list(images),
        "indices": {rank: [index for index, _ in used] for rank, used in images.items()},
        "files": {rank: [path for _, path in used] for rank, used in images.items()},
    }


def _text(facts: dict[str, Any]) -> str:
    ranks = ", ".join(str(rank) for rank in facts["ranks"])
    return "the loss is not finite on rank %s at epoch %d, step %d" % (ranks, facts["epoch"], facts["step"])
