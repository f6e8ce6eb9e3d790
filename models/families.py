"""All that tells one family of models from another: its names, its own options, and what its weights look like.

A new family is a file of models, a subclass of Family here, and a row for each model in sizes.json, which --list-models
prints and `--model` is checked against without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from models import shiftvit, smlp, spach
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Family:
    """A family of models, whose names all begin with `name`."""

    name = ""
    model_names: tuple[str, ...] = ()
    options: dict[str, Any] = {}  # the options that only this family has, each with its neutral value
    own_key = ""  # a parameter that every model of this family has, and no model of another
    classifier_key = ""  # the weight (classes, features) of the last layer

    def keywords(self, recorded: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
        """Return the family's own keywords of a model: what is `chosen` and not None, else what is `recorded`."""
        keywords = {name: recorded[name] for name in self.options if name in recorded}
        keywords.update({name: value for name, value in chosen.items() if value is not None})
        return keywords

    def keywords_of_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return those of its own keywords that follow from the names and shapes of the weights."""
        return {}

    def image_size(self, weights: Mapping[str, Tensor]) -> int | None:
        """Return the image size in pixels that follows from the shapes of the weights; None where any size does."""
        return None


class Smlpnet(Family):
    name = "smlpnet"
    model_names = smlp.MODEL_NAMES
    options = {"token_layout": None}
    own_key = "token_mix.0.1.proh_w.weight"
    classifier_key = "mlp_head.0.weight"

    def keywords(self, recorded: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
        return super().keywords({"token_layout": smlp.recorded_layout(recorded)}, **chosen)

    def image_size(self, weights: Mapping[str, Tensor]) -> int | None:
        patch_size = weights["to_patch_embedding.0.0.weight"].shape[-1]
        return weights["token_mix.0.1.proj_h.weight"].shape[0] * patch_size


class Spach(Family):
    name = "spach"
    model_names = spach.MODEL_NAMES
    options = {"stem_type": "conv1", "shared_spatial_func": False}
    own_key = "norm1.weight"
    classifier_key = "head.weight"

    def keywords_of_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"stem_type": "conv4" if "stem.proj.0.weight" in weights else "conv1"}

    def image_size(self, weights: Mapping[str, Tensor]) -> int | None:
        for name, stride in (("blocks.0.spatial_func.fc1.weight", 16), ("layer2.1.spatial_func.fc1.weight", 8)):
            if name in weights:
                return round(weights[name].shape[1] ** 0.5) * stride
        return None


class Shiftvit(Family):
    name = "shiftvit"
    model_names = shiftvit.MODEL_NAMES
    own_key = "patch_embed.proj.weight"
    classifier_key = "head.weight"


FAMILIES = (Smlpnet(), Spach(), Shiftvit())
MODEL_NAMES = tuple(name for family in FAMILIES for name in family.model_names)


def family_of(model: str) -> Family | None:
    """Return the Family of the model named `model`; None for a model of timm."""
    return next((family for family in FAMILIES if model in family.model_names), None)


def own_options(model: str) -> tuple[str, ...]:
    """Return the names of the options that only the family of this model has."""
    family = family_of(model)
    return tuple(family.options) if family else ()


def own_keywords(model: str, recorded: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
    """Return the family's own keywords of this model, as of Family.keywords; {} for a model of timm."""
    family = family_of(model)
    return family.keywords(recorded, **chosen) if family else {}


def family_of_weights(weights: Mapping[str, Tensor]) -> Family | None:
    """Return the Family whose parameters the dictionary `weights` has; None where no family has them."""
    for family in FAMILIES:
        if family.own_key in weights and family.classifier_key in weights:
            return family
    return None


def check_options(model: str, options: Mapping[str, Any]) -> None:
    """Raise UserError where the dictionary `options` sets an option that only another family has."""
    for family in FAMILIES:
        for name, neutral in family.options.items() if model not in family.model_names else ():
            if options[name] != neutral:
                flag = "--" + name.replace("_", "-")
                raise UserError("%s %s: --model %s has no such option" % (flag, options[name], model))
