"""Names and constants that several packages share; this module does not import torch."""

DEVICE_KINDS = ("npu", "cuda", "cpu")  # in the order of --device auto
AMP_DTYPES = ("bfloat16", "float16")
TOKEN_LAYOUTS = ("permute", "reshape")  # the paper's function, and that of the Ascend port
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_PCT = 224 / 256  # the edge of the centre crop, as a fraction of the resized shorter edge
EXPORT_FORMATS = ("onnx", "torchscript", "exported_program", "safetensors")
DYNAMO_OPSET = 18  # the lowest that torch.export's ONNX exporter writes, and the default where torch has it
INT8_OPSET = 13  # the first with a scale for each channel
GELU_OPSET = 20  # the first with GELU as one operator
TRACED_OPSET = 12  # the highest that torch 1.5 writes, by tracing
BEST_BY = ("acc1", "balanced", "f1", "loss")  # the metrics by which best.pth can be chosen
