"""The reference's transforms of a picture."""

from PIL import Image
from torchvision import transforms

from runtime.names import IMAGENET_MEAN, IMAGENET_STD
from pipeline.reading import BoundedResize
from runtime.compat import create_transform
from runtime.errors import UserError

SMALL_SIZE = 32  # up to this size a picture of just the size is not resized, and cropped after padding in training


def build_transform(is_train, args):
    """The reference's transform of a PIL picture to a normalised (3, input_size, input_size) float32 tensor."""
    if not is_train:
        return eval_transform(args.input_size)
    try:
        transform = create_transform(
            input_size=args.input_size,
            is_training=True,
            color_jitter=args.color_jitter,
            auto_augment=args.aa or None,
            interpolation=args.train_interpolation,
            hflip=args.hflip,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
        )
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise UserError("--aa %s is not a policy that works: %s" % (args.aa, error)) from None
    if args.input_size <= SMALL_SIZE:
        transform.transforms[0] = transforms.RandomCrop(args.input_size, padding=4)
        transform.transforms[0:0] = _fit(args.input_size)
    return transform


def eval_transform(input_size):
    """Return the reference's transform of a PIL image to a normalised (3, input_size, input_size) float32 tensor."""
    return transforms.Compose([*_fit(input_size), *_normalise()])


class UnlessSized:
    """Apply `transform` to a picture unless it is `size` x `size` already."""

    def __init__(self, size, transform):
        self.size, self.transform = size, transform

    def __call__(self, picture):
        return picture if picture.size == (self.size, self.size) else self.transform(picture)

    def __repr__(self):
        return "UnlessSized(%d, %r)" % (self.size, self.transform)


def _fit(size):
    """Resize to 256/224 of the size and crop the centre."""
    steps = [BoundedResize(int(256 / 224 * size), interpolation=Image.BICUBIC), transforms.CenterCrop(size)]
    return steps if size > SMALL_SIZE else [UnlessSized(size, transforms.Compose(steps))]


def _normalise():
    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
