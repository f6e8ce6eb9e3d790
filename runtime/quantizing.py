"""ONNX models of fewer bits than float32, by onnxruntime's own converters."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any, Iterator, NamedTuple

from runtime import exporting
from runtime.names import AMP_DTYPES

LEAST_WIDTH = 16  # of a product's weight in both directions: narrower ones cost more to quantise than they save


class Reduced(NamedTuple):
    """An ONNX model of fewer bits, and how many of its products have them."""

    data: bytes
    products: int
    of_products: int


def fold(data: bytes) -> bytes:
    """Return an ONNX model with its constants computed, and without copies of weights for each row of a batch."""
    onnx, onnxruntime = (exporting.require_package(name, "--format onnx") for name in ("onnx", "onnxruntime"))
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = os.path.join(folder, "folded.onnx")
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    _broadcast(model.graph)
    used = {node.domain for node in model.graph.node}
    domains = [entry for entry in model.opset_import if entry.domain in used]
    metadata = onnx.load_model_from_string(data).metadata_props
    for field, entries in ((model.opset_import, domains), (model.metadata_props, metadata)):
        entries = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        del field[:]
        field.extend(entries)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _broadcast(graph: Any) -> None:
    """Give each product the matrix itself in the place of an expanded one: a product broadcasts its operands."""
    expands = {node.output[0]: node for node in graph.node if node.op_type == "Expand"}
    constants = {value.name: value for value in graph.initializer}
    for node in graph.node:
        expand = expands.get(node.input[0]) if node.op_type == "MatMul" else None
        if expand is not None and expand.input[0] in constants:
            node.input[0] = expand.input[0]
    used = {name for node in graph.node for name in node.input}
    for name, expand in expands.items():
        if name not in used:
            graph.node.remove(expand)


def to_int8(data: bytes, batches: Iterator[Any]) -> Reduced:
    """Return a folded model with its wide products in int8, calibrated on the `batches` of numpy arrays.

    The products are those with a constant weight, and 1x1 convolutions. Inputs are unsigned; weights are signed, with a
    scale for each output channel. All else stays float32, and so do the products' outputs.
    """
    onnx = exporting.require_package("onnx", "--int8")
    quantization = _module("onnxruntime.quantization", "--int8")
    model = onnx.load_model_from_string(data)
    chosen, found = _products(onnx, model.graph)
    reader = _Reader(model.graph.input[0].name, batches)
    with exporting.quiet(), tempfile.TemporaryDirectory() as folder:
        source, target = (os.path.join(folder, name) for name in ("source.onnx", "target.onnx"))
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=chosen,
            op_types_to_quantize=["MatMul", "Conv"],
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        written = onnx.load(target)
    return Reduced(_with_metadata(written, model), len(chosen), found)


def to_half(data: bytes, batches: Iterator[Any]) -> Reduced:
    """Return a model in half precision whose input and output stay float32; the `batches` are not needed."""
    onnx = exporting.require_package("onnx", "--half")
    converter = _module("onnxruntime.transformers.%s" % AMP_DTYPES[1], "--half")
    model = onnx.load_model_from_string(data)
    _, found = _products(onnx, model.graph)
    with exporting.quiet():
        written = converter.convert_float_to_float16(model, keep_io_types=True)
    return Reduced(_with_metadata(written, onnx.load_model_from_string(data)), found, found)


def _module(name: str, option: str) -> Any:
    exporting.require_package("onnxruntime", option)
    return importlib.import_module(name)


class _Reader:
    """Calibration batches in the form of onnxruntime's CalibrationDataReader."""

    def __init__(self, name: str, batches: Iterator[Any]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> Any:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _products(onnx: Any, graph: Any) -> tuple[list[str], int]:
    """Return the names of the products to quantise, and how many products and convolutions there are."""
    weights = {value.name: list(value.dims) for value in graph.initializer}
    chosen, found = [], 0
    for number, node in enumerate(graph.node):
        node.name = node.name or "node_%d" % number
        if node.op_type not in ("MatMul", "Conv", "Gemm"):
            continue
        found += 1
        shape = weights.get(node.input[1], [])
        values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        is_matrix = node.op_type == "MatMul" and len(shape) == 2
        is_pointwise = node.op_type == "Conv" and shape[2:] == [1, 1] and values.get("group", 1) == 1
        if (is_matrix or is_pointwise) and min(shape[:2]) >= LEAST_WIDTH:
            chosen.append(node.name)
    return chosen, found


def _with_metadata(model: Any, source: Any) -> bytes:
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    return model.SerializeToString()
