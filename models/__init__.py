"""The model registry: importing this package makes every model known to `timm.create_model`."""

from models.families import MODEL_NAMES

__all__ = ["MODEL_NAMES"]
