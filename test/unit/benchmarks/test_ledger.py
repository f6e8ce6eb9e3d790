"""The bytes that operators move, against sums worked out by hand."""

import types

import pytest

pytest.importorskip("torch._subclasses.fake_tensor", reason="torch has no tensors without contents")
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

from baseline_smlp import BaselineSMLPNet
from torch import nn
from torch.nn import functional

from benchmarks import ledger
from benchmarks.traffic import Contentless, Ledger
from models import norms
from models.layers import left_product
from models.smlp import sMLPNet
from runtime.amp import DTYPES

FLOAT = 4  # bytes


def moved_by(work):
    """Return {kind: bytes} of the function `work`, called with a Ledger, without contents or gradients."""
    book = Ledger()
    with torch.no_grad(), book:
        work(book)
    return dict(book.moved)


@pytest.fixture(autouse=True)
def contentless():
    with Contentless():
        yield


def test_a_convolution_reads_image_and_weight_and_writes_its_output():
    image, layer = torch.empty(2, 3, 8, 8), nn.Conv2d(3, 5, kernel_size=1, bias=False)
    want = FLOAT * (2 * 3 * 64 + 3 * 5 + 2 * 5 * 64)
    assert moved_by(lambda book: layer(image)) == {"convolution": want}


def test_a_convolution_backward_is_a_kernel_for_each_gradient():
    image, layer = torch.empty(2, 3, 8, 8).requires_grad_(), nn.Conv2d(3, 5, kernel_size=1)
    output, book = layer(image), Ledger()
    with book:
        torch.autograd.grad(output, [image, layer.weight, layer.bias], torch.empty(2, 5, 8, 8))
    gradient, image_size, weight = 2 * 5 * 64, 2 * 3 * 64, 3 * 5
    for_image, for_weight = gradient + weight + image_size, gradient + image_size + weight
    assert dict(book.moved) == {"convolution": FLOAT * (for_image + for_weight + gradient + 5)}


def test_a_convolution_first_copies_an_image_with_axes_in_another_order():
    image, layer = torch.empty(2, 8, 3, 8), nn.Conv2d(3, 5, kernel_size=1, bias=False)
    want = FLOAT * (2 * 3 * 64 + 3 * 5 + 2 * 5 * 64)
    copied = FLOAT * 2 * (2 * 3 * 64)
    assert moved_by(lambda book: layer(image.permute(0, 2, 1, 3))) == {"convolution": want, "copy": copied}


def test_a_convolution_takes_channels_last_as_it_is():
    image, layer = torch.empty(2, 8, 8, 3), nn.Conv2d(3, 5, kernel_size=1, bias=False)
    assert "copy" not in moved_by(lambda book: layer(image.permute(0, 3, 1, 2)))


def test_a_linear_layer_reads_input_weight_and_bias():
    rows, layer = torch.empty(6, 4), nn.Linear(4, 7)
    assert moved_by(lambda book: layer(rows)) == {"matrix product": FLOAT * (6 * 4 + 4 * 7 + 7 + 6 * 7)}


def test_an_addition_in_place_reads_both_and_writes_one():
    first, second = torch.empty(10), torch.empty(10)
    assert moved_by(lambda book: first.add_(second)) == {"add": FLOAT * 30}


def test_the_same_tensor_twice_is_read_once():
    values = torch.empty(10)
    assert moved_by(lambda book: values + values) == {"add": FLOAT * 20}


def test_a_copy_does_not_read_its_target():
    first, second = torch.empty(10), torch.empty(10)
    assert moved_by(lambda book: first.copy_(second)) == {"copy": FLOAT * 20}


def test_an_expanded_tensor_counts_once():
    row, matrix = torch.empty(10), torch.empty(5, 10)
    assert moved_by(lambda book: matrix + row.expand(5, 10)) == {"add": FLOAT * (50 + 10 + 50)}


def test_views_and_allocations_move_nothing():
    values = torch.empty(4, 6)
    assert moved_by(lambda book: (values.t(), values.view(24), values[1:], values.detach(), torch.empty(9))) == {}


def test_a_batch_norm_in_training():
    image, layer = torch.empty(2, 3, 8, 8), nn.BatchNorm2d(3)
    # weight, bias, running mean and variance are read, the batch's mean and deviation written; the layer adds 1 to its
    # count of batches, which has 8 bytes and is read and written
    want = FLOAT * (2 * (2 * 3 * 64) + 4 * 3 + 2 * 3)
    assert moved_by(lambda book: layer(image)) == {"batch norm": want, "add": 16}


def test_lists_of_tensors_count_each_tensor():
    averages, values = [torch.empty(10), torch.empty(5)], [torch.empty(10), torch.empty(5)]
    assert moved_by(lambda book: torch._foreach_add_(averages, values)) == {"add": FLOAT * 3 * 15}


def test_a_part_takes_all_kinds():
    values = torch.empty(10)
    assert moved_by(lambda book: book.as_part("optimizer", values.add_)(values)) == {"optimizer": FLOAT * 20}


def test_half_precision_moves_half_and_the_cast_is_counted():
    rows, weight = torch.empty(6, 4), torch.empty(7, 4)

    def work(book):
        with ledger.autocast("bfloat16"):
            functional.linear(rows, weight)

    casts = (FLOAT + 2) * (6 * 4 + 7 * 4)
    assert moved_by(work) == {"cast": casts, "matrix product": 2 * (6 * 4 + 4 * 7 + 6 * 7)}


def test_a_mix_casts_its_weight_once():
    tokens, layer = torch.empty(50, 4, 6, dtype=DTYPES["bfloat16"]), nn.Linear(4, 4)

    def work(book):
        with ledger.autocast("bfloat16"):
            left_product(layer, tokens)

    casts = (FLOAT + 2) * (4 * 4 + 4)
    assert moved_by(work) == {"cast": casts, "matrix product": 2 * (2 * 50 * 4 * 6 + 4 * 4 + 4)}


def test_a_norm_of_torch_is_computed_in_float32_and_ours_in_half_precision():
    def work(module):
        def call(book):
            with ledger.autocast("bfloat16"):
                assert module(rows).dtype == (rows.dtype if module is ours else torch.float32)

        return call

    torchs, ours = nn.LayerNorm(6), norms.LayerNorm(6)
    rows = torch.empty(8, 6, dtype=DTYPES["bfloat16"])
    values, parameters, statistics = 8 * 6, 2 * 6, 2 * 8
    found = moved_by(work(torchs))
    assert found == {"cast": 6 * values, "layer norm": FLOAT * (2 * values + parameters + statistics)}
    found = moved_by(work(ours))
    assert found["cast"] == 6 * parameters
    assert found["layer norm"] in [2 * (2 * values + parameters) + size * statistics for size in (2, FLOAT)]


def test_the_rows_name_the_two_formulations(tmp_path):
    options = types.SimpleNamespace(model="smlpnet_tiny", mode="eval", input_size=32, batch_size=2, precision="float16")
    rows = {row.setting: row for row in ledger.run(options)}
    assert list(rows)[:3] == ["floor", "plain", "eager"]
    assert rows["plain"].ratio == 1
    for name in ("plain", "eager"):
        parts = [row.value for setting, row in rows.items() if setting.startswith(name + ": ")]
        assert rows[name].value == pytest.approx(sum(parts))


class Tiny(nn.Module):
    """A batch norm and a convolution, whose floor can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, kernel_size=2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        return self.norm(self.first(x))


def test_the_floor_follows_its_formula():
    images = torch.empty(2, 3, 8, 8)
    first, output = 2 * 3 * 64, 2 * 5 * 16
    parameters = 5 * 3 * 4 + 2 * 5
    assert ledger.floor(Tiny(), images, "float32", False) == FLOAT * (first + output) + 4 * parameters
    training = 2 * (3 * first + 2 * output + 4 * output - first) + 48 * parameters
    assert ledger.floor(Tiny(), images, "bfloat16", True) == training


NET = {"dim": 80, "depths": (1, 1, 1, 1), "image_size": 224}


def ledgers(mode, precision):
    """Return the ledger of the baseline and ours, {kind: bytes}, and the floor in bytes."""
    ours, baseline, images = sMLPNet(**NET), BaselineSMLPNet(**NET), torch.empty(112, 3, 224, 224)
    for model in (ours, baseline):
        ledger.make_copyable(model)
    least = ledger.floor(baseline, images, precision, mode == "train")
    laid = images.contiguous(memory_format=torch.channels_last)
    return (
        ledger.count(baseline, ledger.baseline_step, images, precision, mode == "train"),
        ledger.count(ours, ledger.our_step, laid, precision, mode == "train"),
        least,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_goes_below_the_floor(mode, precision):
    baseline, ours, least = ledgers(mode, precision)
    assert least < sum(baseline.values())
    assert least < sum(ours.values())
    assert ("optimizer" in ours) == ("EMA" in ours) == (mode == "train")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_ours_moves_no_more_than_the_baseline(mode, precision):
    baseline, ours, _ = ledgers(mode, precision)
    assert sum(ours.values()) <= sum(baseline.values())


def test_fused_kernels_move_less_than_half_of_the_baseline():
    pytest.importorskip("triton", reason="NOT CHECKED: the fused kernels, without Triton")
    options = {"model": "smlpnet_tiny", "mode": "train", "input_size": 224, "batch_size": 112, "precision": "float16"}
    rows = {row.setting: row for row in ledger.run(types.SimpleNamespace(**options))}
    assert rows["fused"].ratio < 0.45
    assert rows["fused: fused kernels"].value > 200
    assert not {"fused: cat", "fused: gelu", "fused: layer norm"} & set(rows)


def test_a_fused_kernel_counts_what_it_reads_and_writes():
    operators = pytest.importorskip("models.fused.operators", reason="NOT CHECKED: the fused kernels, without Triton")
    tokens, channels, matrix, bias = torch.empty(2, 7, 7, 16), torch.empty(16), torch.empty(7, 7), torch.empty(7)
    norm = (channels, channels.clone(), channels.clone(), channels.clone(), 1e-5)
    moved = moved_by(lambda book: operators.mix_columns(tokens, *norm, matrix, bias))
    assert moved == {"fused kernels": FLOAT * (2 * 2 * 49 * 16 + 4 * 16 + 49 + 7)}
