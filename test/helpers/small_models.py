"""Small networks, so that tests take seconds."""

from models.shiftvit import ShiftViT
from models.spach import Spach
from runtime.compat import create_model

# One of each kind of block, small: what each is called, and its keywords.
SMALL_SIBLINGS = {
    "spach mlp": (Spach, {"stages": [[("mlp", 2)]], "hidden_dim": 16, "num_heads": 2}),
    "spach attn": (Spach, {"stages": [[("attn", 2)]], "hidden_dim": 16, "num_heads": 2, "stem_type": "conv4"}),
    "spach shared": (Spach, {"stages": [[("mlp", 3)]], "hidden_dim": 16, "shared_spatial_func": True}),
    "spach stages": (
        Spach,
        {
            "stages": [[("pass", 1)], [("mlp", 1)], [("pass", 1), ("attn", 1)], [("attn", 1)]],
            "hidden_dim": 8,
            "num_heads": 2,
            "patch_size": 4,
        },
    ),
    "shiftvit": (ShiftViT, {"embed_dim": 12, "depths": (1, 1, 2, 1), "n_div": 6, "drop_path_rate": 0.1}),
}


def create_small_model(name, **options):
    """Return the sMLPNet called `name`, made small."""
    return create_model(name, **dict({"dim": 16, "depths": (1, 1, 2, 1)}, **options))


def create_tiny_model(name, **options):
    """Return the sMLPNet or SPACH called `name`, made as small as it can be."""
    small = SMALL_SIBLINGS["spach mlp"][1] if name.startswith("spach") else {"dim": 8, "depths": (1, 1, 1, 1)}
    return create_model(name, **dict(small, **options))
