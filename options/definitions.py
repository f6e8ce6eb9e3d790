"""The options of the recipe: the model, its data, and how it learns."""

from __future__ import annotations

import argparse
import os

from options.command_line import Parser, add_switch, alpha, extension, number
from runtime.names import TOKEN_LAYOUTS

_COUNT, _POSITIVE = number(int), number(float, above=0)
_FRACTION = number(float, high=1)
# Products of these stay within float32, and a schedule's or a distribution's arithmetic within Python's.
_RATE, _EPOCHS = number(float, high=1000), number(int, high=10**6)
_MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))


def add_groups(parser: Parser) -> None:
    """Add the groups of options, each with its default in its help."""
    for add in (_add_model, _add_data, _add_augmentation, _add_classes, _add_optimizer, _add_schedule):
        add(parser)
    _add_distillation(parser)


def _add_model(parser: Parser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", default="smlpnet_tiny", metavar="NAME", help="one of --list-models (default: smlpnet_tiny)")
    size = number(int, low=1, high=8192)
    add("--input-size", type=size, default=224, metavar="PIXELS", help="side of the square images (default: 224)")
    add("--drop", type=_FRACTION, default=0.0, metavar="RATE", help="dropout, probability from 0 to 1 (default: 0)")
    rate = number(float, high=0.99)
    text = "stochastic depth: probability that the last block is skipped (default: the model's own)"
    add("--drop-path", type=rate, metavar="RATE", help=text)
    add(
        "--token-layout",
        choices=TOKEN_LAYOUTS,
        help="permute is the paper's function, reshape the Ascend port's (default: the checkpoint's, else permute)",
    )
    add("--stem-type", default="conv1", choices=["conv1", "conv4"], help="first layers of SPACH (default: conv1)")
    add("--shared-spatial-func", action="store_true", help="of SPACH: one in all blocks of a stage (default: off)")
    text = "start from the weights of this checkpoint (file, folder or https URL), of any classes and image size "
    add("--finetune", default="", metavar="PATH", help=text + "(default: random weights)")
    add("--list-models", action="store_true", help="print a table of the models, and end (default: off)")
    add_switch(add, "model-ema", True, "keep EMA weights, an exponential moving average of the weights")
    text = "limit the decay of the EMA at step t to (1 + t) / (10 + t) (default: off)"
    add("--model-ema-warmup", action="store_true", help=text)
    text = "decay of the EMA weights a step, from 0 to 1 (default: 0.99996)"
    add("--model-ema-decay", type=_FRACTION, default=0.99996, metavar="RATE", help=text)
    add("--model-ema-force-cpu", action="store_true", help="keep the EMA weights in host memory (default: off)")


def _add_data(parser: Parser) -> None:
    add = parser.add_argument_group("data").add_argument
    text = "folder with train/ and val/, or with lists or archives of these names (required)"
    add("--data-path", default="", metavar="DIR", help=text)
    text = "a folder, list, archive or pattern of archives, or a URL of one (default: what --data-path holds)"
    add("--train-data", default="", metavar="SOURCE", help=text)
    add("--val-data", default="", metavar="SOURCE", help=text)
    text = "folder of the images that a list names (default: the list's)"
    add("--image-root", default="", metavar="DIR", help=text)
    text = "where pieces of data from URLs are kept, below that folder (default: nowhere, they are read anew)"
    add("--data-cache", default="", metavar="DIR", help=text)
    gigabytes = number(float, above=0, high=10**9)
    add(
        "--data-cache-gb",
        type=gigabytes,
        default=100.0,
        metavar="GB",
        help="gigabytes that --data-cache takes at most (default: 100)",
    )
    text = "where indexes of the images are kept (default: --output-dir)"
    add("--index-cache", default="", metavar="DIR", help=text)
    text = "IMNET, a folder of images, alone is supported (default: IMNET)"
    add("--data-set", default="IMNET", choices=["CIFAR", "IMNET", "INAT", "INAT19"], help=text)
    add("--inat-category", default="name", help=argparse.SUPPRESS)
    text = "loader processes of each rank (default: its processor cores, at most 64)"
    add("--num-workers", type=number(int, high=_MOST_WORKERS), metavar="N", help=text)
    add(
        "--loader",
        default="exact",
        choices=["exact", "fast"],
        help="fast: simplejpeg, torch and OpenCV instead of Pillow; nearly the same pixels (default: exact)",
    )
    text = "read files of these extensions too, such as .gif .avif (default: the checkpoint's, else none)"
    add("--extensions", type=extension, nargs="+", metavar="EXTENSION", help=text)
    add_switch(add, "exif-transpose", None, "rotate an image as its EXIF orientation says")
    add_switch(add, "pin-mem", True, "page-locked batches on an accelerator")
    add("--skip-bad-images", action="store_true", help="skip unreadable images, and count them (default: off)")


def _add_augmentation(parser: Parser) -> None:
    add = parser.add_argument_group("augmentation").add_argument
    text = "brightness, contrast and saturation change by up to this fraction; used without --aa (default: 0.4)"
    add("--color-jitter", type=_RATE, default=0.4, metavar="X", help=text)
    text = "automatic augmentation as timm names it, '' for none (default: rand-m9-mstd0.5-inc1)"
    add("--aa", default="rand-m9-mstd0.5-inc1", metavar="POLICY", help=text)
    text = "ce: cross entropy; bce: binary cross entropy of each class (default: ce)"
    add("--loss", default="ce", choices=["ce", "bce"], help=text)
    text = "label smoothing: fraction of the target spread over all classes (default: 0.1)"
    add("--smoothing", type=number(float, high=0.99), default=0.1, metavar="X", help=text)
    ways = ["random", "bilinear", "bicubic"]
    text = "how training images are resized (default: bicubic)"
    add("--train-interpolation", default="bicubic", choices=ways, help=text)
    fraction = number(float, above=0, high=1)
    text = "least and largest fraction of an image's area that a crop has (default: 0.08 1)"
    add("--scale", type=fraction, nargs=2, metavar=("MIN", "MAX"), help=text)
    text = "least and largest fraction of a crop's width by its height, before it is resized (default: 0.75 1.33)"
    add("--ratio", type=number(float, above=0, high=100), nargs=2, metavar=("MIN", "MAX"), help=text)
    add("--hflip", type=_FRACTION, default=0.5, metavar="P", help="probability to mirror an image (default: 0.5)")
    add("--vflip", type=_FRACTION, default=0.0, metavar="P", help="probability to turn it upside down (default: 0)")
    add_switch(
        add,
        "repeated-aug",
        True,
        "repeated augmentation: an epoch samples a third of the images and augments each three times",
    )
    add("--reprob", type=_FRACTION, default=0.25, metavar="P", help="probability of random erasing (default: 0.25)")
    text = "what erases: one value, one random colour, random pixels (default: pixel)"
    add("--remode", default="pixel", choices=["const", "rand", "pixel"], help=text)
    text = "largest number of erased boxes in an image (default: 1)"
    add("--recount", type=number(int, low=1, high=100), default=1, metavar="N", help=text)
    add("--resplit", action="store_true", help=argparse.SUPPRESS)
    text = "alpha of mixup's beta distribution, 0 for no mixup (default: 0.8)"
    add("--mixup", type=alpha, default=0.8, metavar="ALPHA", help=text)
    text = "alpha of cutmix's beta distribution, 0 for no cutmix (default: 1)"
    add("--cutmix", type=alpha, default=1.0, metavar="ALPHA", help=text)
    text = "least and largest side of cutmix's box as fractions of the image's, instead of --cutmix (default: none)"
    add("--cutmix-minmax", type=_FRACTION, nargs=2, metavar=("MIN", "MAX"), help=text)
    add("--mixup-prob", type=_FRACTION, default=1.0, metavar="P", help="probability to mix a batch (default: 1)")
    text = "probability of cutmix where both are on (default: 0.5)"
    add("--mixup-switch-prob", type=_FRACTION, default=0.5, metavar="P", help=text)
    text = "first epoch that mixes no images any more (default: 0, never)"
    add("--mixup-off-epoch", type=_EPOCHS, default=0, metavar="EPOCH", help=text)
    text = "one mixing ratio for the batch, for each pair, or for each image (default: batch)"
    add("--mixup-mode", default="batch", choices=["batch", "pair", "elem"], help=text)


def _add_classes(parser: Parser) -> None:
    add = parser.add_argument_group("skewed classes").add_argument
    text = "weights of the classes in the loss: auto, by their numbers of images, or a JSON file of names and weights "
    add("--class-weights", default="none", metavar="auto|FILE|none", help=text + "(default: none)")
    text = "auto: the weight of a class is its number of images to the power of minus X (default: 0.5)"
    add("--class-weights-power", type=number(float, high=2), default=0.5, metavar="X", help=text)
    text = "show rare classes more often: fraction of the way from each image to each class alike (default: 0)"
    add("--balanced-sampling", type=_FRACTION, default=0.0, metavar="X", help=text)


def _add_optimizer(parser: Parser) -> None:
    add = parser.add_argument_group("optimizer").add_argument
    text = "images a batch of a process (default: 128)"
    add("--batch-size", type=number(int, low=1, high=10**6), default=128, metavar="IMAGES", help=text)
    text = "batches of a process whose gradients make a step (default: 1)"
    add("--grad-accum-steps", type=number(int, low=1, high=10**4), default=1, metavar="N", help=text)
    add("--opt", default="adamw", metavar="NAME", help="any of timm's optimizers (default: adamw)")
    text = "epsilon, added to the optimizer's denominator (default: 1e-8)"
    add("--opt-eps", type=number(float, above=0, high=1000), default=1e-8, metavar="X", help=text)
    text = "decay rates of the moments, below 1 (default: the optimizer's)"
    add("--opt-betas", type=_FRACTION, nargs="+", metavar="BETA", help=text)
    text = "momentum of SGD, from 0 to 1 (default: 0.9)"
    add("--momentum", type=_FRACTION, default=0.9, metavar="X", help=text)
    text = "decoupled weight decay (default: 0.05)"
    add("--weight-decay", type=_RATE, default=0.05, metavar="X", help=text)
    text = "largest norm of the gradients (default: no clipping)"
    add("--clip-grad", type=_POSITIVE, metavar="NORM", help=text)


def _add_schedule(parser: Parser) -> None:
    add = parser.add_argument_group("learning rate").add_argument
    text = "learning rate for a global batch of 512 images, scaled in proportion (default: 5e-4)"
    add("--lr", type=_RATE, default=5e-4, metavar="LR", help=text)
    text = "epochs to train in all (default: 300)"
    add("--epochs", type=number(int, low=1, high=10**6), default=300, metavar="EPOCHS", help=text)
    add("--sched", default="cosine", metavar="NAME", help="any of timm's schedules but plateau (default: cosine)")
    text = "layer decay: a layer's rate is that of the layer above times this (default: 1)"
    add("--layer-decay", type=number(float, above=0, high=1), default=1.0, metavar="X", help=text)
    text = "epochs of warm-up, in which the rate rises to --lr (default: 20)"
    add("--warmup-epochs", type=_EPOCHS, default=20, metavar="EPOCHS", help=text)
    add("--warmup-lr", type=_RATE, default=1e-6, metavar="LR", help="initial rate of the warm-up (default: 1e-6)")
    add("--min-lr", type=_RATE, default=1e-5, metavar="LR", help="final rate of the schedule (default: 1e-5)")
    text = "epochs between two decays; of step, wsd and rsqrt (default: 30)"
    add("--decay-epochs", type=_POSITIVE, default=30, metavar="EPOCHS", help=text)
    text = "epochs at which multistep lowers the rate (default: 90 180 270)"
    add("--decay-milestones", type=_EPOCHS, nargs="+", default=[90, 180, 270], metavar="EPOCH", help=text)
    positive = number(float, above=0, high=1000)
    text = "factor of step and multistep, the power of poly (default: 0.1)"
    add("--decay-rate", "--dr", type=positive, default=0.1, metavar="X", help=text)
    text = "fraction of the epochs after which the rate has noise, and until which (default: none)"
    add("--lr-noise", type=_FRACTION, nargs="+", metavar="FRACTION", help=text)
    text = "limit of the noise as a fraction of the rate (default: 0.67)"
    add("--lr-noise-pct", type=number(float, low=0.01, high=1), default=0.67, metavar="X", help=text)
    text = "standard deviation of the noise (default: 1)"
    add("--lr-noise-std", type=number(float, above=0, high=10), default=1.0, metavar="X", help=text)
    add("--cooldown-epochs", type=_COUNT, default=10, help=argparse.SUPPRESS)
    add("--patience-epochs", type=_COUNT, default=10, help=argparse.SUPPRESS)


def _add_distillation(parser: Parser) -> None:
    add = parser.add_argument_group("distillation").add_argument
    text = "learn from a teacher's logits (default: none)"
    add("--distillation-type", default="none", choices=["none", "soft", "hard"], help=text)
    text = "any model of this project or of timm (default: regnety_160)"
    add("--teacher-model", default="regnety_160", metavar="NAME", help=text)
    text = "the teacher's checkpoint, as of --resume (default: none, distillation needs it)"
    add("--teacher-path", default="", metavar="PATH", help=text)
    text = "weight of the teacher's loss, from 0 to 1 (default: 0.5)"
    add("--distillation-alpha", type=_FRACTION, default=0.5, metavar="X", help=text)
    text = "temperature of soft (default: 1)"
    add("--distillation-tau", type=number(float, low=0.01, high=1000), default=1.0, metavar="X", help=text)
