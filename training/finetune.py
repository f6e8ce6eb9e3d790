"""Fine-tuning: a run that begins with weights learnt elsewhere, for other classes or at another image size."""

from checkpoints import loading, store
from models.resampling import resample
from runtime.errors import UserError


class Weights:
    """What `--finetune` names: the file's `path`, its `weights`, `options` and `classes` (None where not recorded)."""

    def __init__(self, path, loaded):
        self.path, self.weights = path, loaded["model"]
        self.options, self.classes = loading.options_of(loaded), loaded.get("classes")


def read(option):
    """The Weights in the file, folder or at the https address `option`; the best ones of a folder."""
    path = store.resolve(option, (store.BEST, store.LATEST), "--finetune")
    return Weights(path, loading.load(path))


def begin_with(source, model, classes):
    """Put the weights into `model`; the lines that say what could not be taken as it is.

    A head of other classes stays as it is in `model`, and token mixers of another image size are resampled. UserError
    where anything else differs.
    """
    wanted = model.state_dict()
    weights, lines = _with_head(source, model, wanted, classes)
    weights, count = resample(weights, wanted)
    if count and getattr(model, "token_layout", None) == "reshape":
        raise UserError(
            "--finetune %s: with --token-layout reshape its layers mix groups of channels and cannot be resampled: "
            "pass its own --input-size" % source.path
        )
    if count:
        lines.append("%d token-mixing layers are resampled to this --input-size" % count)
    loading.check_fits(source.path, weights, model)
    model.load_state_dict(weights)
    return lines


def _with_head(source, model, wanted, classes):
    weights, head = dict(source.weights), _head_of(model)
    there = [len(weights[name]) for name in head if name in weights]
    here = [len(wanted[name]) for name in head]
    if there == here:
        known = source.classes
        others = known is not None and list(known) != list(classes)
        return weights, ["the head is kept, though the names of its classes are others"] if others else []
    for name in head:
        weights[name] = wanted[name]
    return weights, ["the head of %s is replaced by a fresh one of %d" % (_count(there), len(classes))]


def _head_of(model):
    """The names of the classifier's parameters."""
    own = {id(parameter) for parameter in model.get_classifier().parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def _count(rows):
    return "%d classes" % rows[0] if rows else "no classes"
