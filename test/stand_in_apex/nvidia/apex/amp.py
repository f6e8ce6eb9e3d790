"""apex.amp with the signatures of NVIDIA's release."""

from apex_loss_scale import CALLS, load_state_dict, master_params, patch, scale_loss, state_dict

__all__ = ["CALLS", "initialize", "load_state_dict", "master_params", "scale_loss", "state_dict"]


def initialize(
    models,
    optimizers=None,
    enabled=True,
    opt_level="O1",
    cast_model_type=None,
    patch_torch_functions=None,
    keep_batchnorm_fp32=None,
    master_weights=None,
    loss_scale=None,
    cast_model_outputs=None,
    num_losses=1,
    verbosity=1,
    min_loss_scale=None,
    max_loss_scale=2.0**24,
):
    CALLS.append(("initialize", opt_level, loss_scale))
    return patch(models, optimizers)
