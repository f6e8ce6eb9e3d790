"""Export of modules to files that need no code of this project, by whichever exporter this torch has.

Each function returns the bytes of a file whose batch size is free; `images` is an example input (B, 3, H, W).
UserError where this torch lacks the exporter, or a package is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch

from runtime.errors import RunError, UserError, reason
from runtime.names import DYNAMO_OPSET, GELU_OPSET, INT8_OPSET, TRACED_OPSET

if TYPE_CHECKING:
    from torch import Tensor, nn

_EXTRA_FILE = "metadata.json"


def default_opset() -> int:
    """Return the ONNX opset that this torch exports by default."""
    return DYNAMO_OPSET if _has_dynamo() else TRACED_OPSET


def fast_opset() -> int:
    """Return the ONNX opset whose models run fastest: the first with GELU as one operator, where torch traces not."""
    return GELU_OPSET if _has_dynamo() else INT8_OPSET


def _has_dynamo() -> bool:
    """Return whether torch exports to ONNX by way of torch.export, into one file (torch 2.5)."""
    names = inspect.signature(torch.onnx.export).parameters
    return "dynamo" in names and "external_data" in names


def require_package(package: str, purpose: str) -> Any:
    """Return the module `package`; UserError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError("%s needs the package %s (%s): pip install %s" % (purpose, package, error, package)) from None


def require_recent_torch(purpose: str) -> None:
    """Raise UserError where this torch is older than 2.1, with which speeds are measured."""
    if not hasattr(torch.nn.Module, "compile"):
        raise UserError("%s needs torch 2.1 or newer; this is %s" % (purpose, torch.__version__))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters, which warn of shapes that become constants on purpose, and log the traceback of a failure."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def onnx_model(module: nn.Module, images: Tensor, names: list[str], opset: int) -> Any:
    """Return the onnx.ModelProto of `module`, with an input and an output of these `names` whose first axis is free.

    From DYNAMO_OPSET on it comes from torch.export where torch has that exporter, otherwise from tracing.
    """
    onnx = require_package("onnx", "--format onnx")
    is_dynamo = opset >= DYNAMO_OPSET and _has_dynamo()
    if is_dynamo:
        require_package("onnxscript", "--format onnx")
    export = _by_dynamo if is_dynamo else _by_tracing
    try:
        with quiet(), torch.no_grad():
            model = export(onnx, module, images, names, opset)
    except UserError:
        raise
    except Exception as error:  # exporters raise nearly anything
        message = "torch %s does not export this to ONNX with --opset %d: %s"
        raise RunError(message % (torch.__version__, opset, reason(error)[:500])) from None
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise RunError("torch %s writes opset %d, not --opset %d" % (torch.__version__, written, opset))
    return model


def _by_dynamo(_onnx, module, images, names, opset):
    program = torch.onnx.export(
        module,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=names[:1],
        output_names=names[1:],
        opset_version=opset,
        verbose=False,
    )
    return program.model_proto


def _by_tracing(onnx, module, images, names, opset):
    buffer = io.BytesIO()
    takes = inspect.signature(torch.onnx.export).parameters
    torch.onnx.export(
        module,
        (images,),
        buffer,
        input_names=names[:1],
        output_names=names[1:],
        dynamic_axes={name: {0: "batch"} for name in names},
        opset_version=opset,
        **({"dynamo": False} if "dynamo" in takes else {}),
    )
    return onnx.load_model_from_string(buffer.getvalue())


def onnx_runner(data: bytes, threads: int) -> tuple[Callable[[Any], Any], dict[str, str]]:
    """Return a function from a numpy array to the output of the model on the CPU, and the model's metadata."""
    onnxruntime = require_package("onnxruntime", "--format onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, one for each way to fail
        raise RunError("onnxruntime does not load it: %s" % reason(error)) from None
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0], session.get_modelmeta().custom_metadata_map


def script_file(module: nn.Module, images: Tensor, metadata: str) -> bytes:
    """Return TorchScript by tracing, with the text `metadata` as the extra file metadata.json."""
    buffer = io.BytesIO()
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(module, images, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files=_extra_files(metadata))
    return buffer.getvalue()


def load_script(data: bytes) -> tuple[Any, str]:
    """Return the module in a file of `script_file`, and its metadata."""
    files: Any = _extra_files("")
    with quiet():
        module = torch.jit.load(io.BytesIO(data), _extra_files=files)
    text = files[_EXTRA_FILE]
    return module, text.decode() if isinstance(text, bytes) else text


def _extra_files(text: str) -> Any:
    if hasattr(torch._C, "ExtraFilesMap"):  # torch 1.5 takes no dictionary
        files = torch._C.ExtraFilesMap()
        files[_EXTRA_FILE] = text
        return files
    return {_EXTRA_FILE: text}


def program_file(module: nn.Module, images: Tensor, metadata: str) -> bytes:
    """Return an ExportedProgram, with the text `metadata` as the extra file metadata.json."""
    if not hasattr(torch, "export") or not hasattr(torch.export, "Dim"):
        raise UserError(
            "torch %s has no torch.export with a free batch: torch 2.2 has; or use another --format" % torch.__version__
        )
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_EXTRA_FILE: metadata})
    return buffer.getvalue()


def load_program(data: bytes) -> tuple[Any, str]:
    """Return the module in a file of `program_file`, and its metadata."""
    files = {_EXTRA_FILE: ""}
    return torch.export.load(io.BytesIO(data), extra_files=files).module(), files[_EXTRA_FILE]
