"""`--list-models`: what there is, how large it is, and what its authors publish of it."""

import models
from runtime.compat import count_multiply_adds, create_model, without_contents

SIDE, CLASSES = 224, 1000
# Acc@1 in percent and G multiply-adds at 224 pixels, as the authors publish them (github.com/microsoft/SPACH).
PUBLISHED = {
    "smlpnet_tiny": (81.9, 5.0),
    "smlpnet_small": (83.1, 10.3),
    "smlpnet_base": (83.4, 14.0),
    "spach_ms_s_patch4_224_conv": (81.6, 7.2),
    "spach_ms_s_patch4_224_attn": (82.9, 7.6),
    "spach_ms_s_patch4_224_mlp": (82.1, 8.2),
    "spach_ms_s_patch4_224_hybrid": (83.7, 11.2),
    "shiftvit_light_tiny": (79.4, 3.0),
    "shiftvit_r2_tiny": (81.7, 4.5),
    "shiftvit_light_small": (81.6, 5.7),
    "shiftvit_r2_small": (82.8, 8.8),
}


def size_of(name):
    """(parameters, multiply-adds of an image or None where torch cannot count them) of a model."""
    with without_contents():
        model = create_model(name, num_classes=CLASSES).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, count_multiply_adds(model, (1, 3, SIDE, SIDE))


def lines():
    """The lines of the table, each as soon as its model has been counted."""
    head = ("model", "parameters", "GFLOPs", "pixels", "published Acc@1", "GFLOPs")
    yield "%-30s %12s %7s %7s %16s %7s" % head
    for name in models.MODEL_NAMES:
        parameters, multiply_adds = size_of(name)
        counted = "-" if multiply_adds is None else "%.2f" % (multiply_adds / 1e9)
        accuracy, flops = PUBLISHED.get(name, ("-", "-"))
        yield "%-30s %12s %7s %7d %16s %7s" % (name, "{:,}".format(parameters), counted, SIDE, accuracy, flops)
    yield "GFLOPs are 10**9 multiply-adds of one image, as the papers count; --input-size gives other sizes."
