"""What many cards should give, computed from the rate of one: the images a second that `benchmark.py step` measures.

Gradients are summed in a ring of n cards: 2 (n - 1) / n of their bytes pass the slowest link, in 2 (n - 1) steps that
each wait once for it. Within a node that is the link between cards, beyond it a card's share of the network. Nothing
overlaps with the backward pass, which makes this the least to expect of the links; files are ready in time. The ratio
is the efficiency: images a second beside those of as many cards that need not wait.
"""

import torch

import models
from benchmarks.runs import CLASSES
from options.command_line import number
from runtime.compat import create_model

_BYTES_OF_A_GRADIENT = 4  # float32, under autocast too


def add_arguments(parser):
    """The options of `benchmark.py project`."""
    count, positive = number(int, low=1), number(float, above=0)
    parser.add_argument("--model", default="smlpnet_tiny", choices=models.MODEL_NAMES)
    parser.add_argument("--rate", type=positive, required=True, help="images a second that one card trains")
    parser.add_argument("--batch-size", type=count, default=112, help="of a card (default: 112)")
    parser.add_argument("--cards", type=count, nargs="+", default=[1, 8, 64, 512], help="(default: 1 8 64 512)")
    parser.add_argument("--cards-per-node", type=count, default=8, help="(default: 8)")
    parser.add_argument("--node-link", type=positive, default=20.0, help="of a card within a node, GB/s (default: 20)")
    parser.add_argument("--network-link", type=positive, default=10.0, help="of a card to others, GB/s (default: 10)")
    parser.add_argument("--latency", type=number(float), default=10.0, help="of one step, microseconds (default: 10)")


def run(args):
    """Rows: the MB of gradients that a step sums, and the images a second of each number of cards."""
    size = gradient_bytes(args.model)
    rows = [{"setting": "gradients", "measure": "MB a step", "value": size / 1e6, "unit": "MB", "ratio": None}]
    step = args.batch_size / args.rate
    for cards in args.cards:
        efficiency = step / (step + exchange_seconds(args, cards, size))
        rows.append(
            {
                "setting": "%d card%s" % (cards, "s" if cards > 1 else ""),
                "measure": "images/s",
                "value": cards * args.rate * efficiency,
                "unit": "images/s",
                "ratio": efficiency,
            }
        )
    return rows


def gradient_bytes(name):
    """The bytes of the gradients of the model `name`, which is made without contents."""
    with torch.device("meta"):
        model = create_model(name, num_classes=CLASSES)
    return sum(parameter.numel() for parameter in model.parameters()) * _BYTES_OF_A_GRADIENT


def exchange_seconds(args, cards, size):
    """Seconds that a ring of `cards` needs for the sum of `size` bytes."""
    gigabytes_per_second = args.node_link if cards <= args.cards_per_node else args.network_link
    traffic = 2 * (cards - 1) / cards * size
    return traffic / (gigabytes_per_second * 1e9) + 2 * (cards - 1) * args.latency * 1e-6
