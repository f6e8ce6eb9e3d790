"""The model registry: importing this package makes every model known to `timm.create_model`."""

from models import smlp

__all__ = ["MODEL_NAMES", "TOKEN_LAYOUTS", "smlp"]

MODEL_NAMES = smlp.MODEL_NAMES
TOKEN_LAYOUTS = smlp.TOKEN_LAYOUTS
