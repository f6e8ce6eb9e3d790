"""The model registry: importing this package makes every model known to `timm.create_model`."""

from models import shiftvit, smlp, spach

__all__ = ["MODEL_NAMES", "TOKEN_LAYOUTS", "shiftvit", "smlp", "spach"]

MODEL_NAMES = smlp.MODEL_NAMES + spach.MODEL_NAMES + shiftvit.MODEL_NAMES
TOKEN_LAYOUTS = smlp.TOKEN_LAYOUTS
