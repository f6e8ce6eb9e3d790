"""Whether the fused kernels are used, decided without Triton and without a GPU; their results: test/interpreted."""

import importlib.util
import logging
import subprocess
import sys
import types

import pytest
from paths import ROOT
from small_models import create_tiny_model

from models.fused import choice
from runtime.amp import Precision
from runtime.errors import UserError

KERNELS = ["models.fused.%s" % name for name in ("block", "checks", "operators", "shared_kernels")]


class OneRank:
    def any(self, flag):
        return flag


class OtherDisagrees:
    def any(self, flag):
        return True


def device(kind):
    return types.SimpleNamespace(kind=kind)


def setting(kind="cuda", **changes):
    values = {"precision": Precision(), "trains": True, "deterministic": False, "compiles": False, "syncs": False}
    return choice.Setting(**dict(values, device=device(kind), **changes))


@pytest.fixture
def found(monkeypatch):
    """A machine with all that the kernels need, as far as it is looked for; {what: seen} of the self-check."""
    seen = {"fault": None, "timed": []}

    def fault(model, setting, is_timed):
        seen["timed"].append(is_timed)
        return seen["fault"]

    monkeypatch.setitem(sys.modules, "models.fused.checks", types.SimpleNamespace(fault=fault))
    monkeypatch.setattr("models.fused.checks", sys.modules["models.fused.checks"], raising=False)
    monkeypatch.setitem(sys.modules, "models.fused.block", types.SimpleNamespace(FusedBlock=lambda eager: "fused"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    library = types.SimpleNamespace(custom_op=None)
    monkeypatch.setattr(choice, "torch", types.SimpleNamespace(library=library))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return seen


def choose(words, model=None, ranks=None, **changes):
    """Return (whether the kernels are used, whether the model's blocks were replaced)."""
    model = model or create_tiny_model("smlpnet_tiny", image_size=32)
    is_fused = choice.fuse_blocks(model, words, setting(**changes), ranks or OneRank(), logging.getLogger("test"))
    return is_fused, model.apply_block == "fused"


def test_auto_takes_them_on_cuda_alone(found):
    assert choose("auto") == (True, True)
    assert choose("auto", kind="cpu") == choose("auto", kind="npu") == (False, False)
    assert choose("off") == (False, False)
    assert found["timed"] == [True]


def test_auto_falls_back_where_they_are_wrong_and_logs_it(found, caplog):
    found["fault"] = "they are slower here"
    with caplog.at_level(logging.INFO):
        assert choose("auto") == (False, False)
    assert "not used: they are slower here" in caplog.text
    with pytest.raises(UserError, match="--fused on: they are slower here; use --fused off"):
        choose("on")


def test_no_time_decides_where_results_must_repeat_or_they_were_asked_for(found):
    choose("auto", deterministic=True)
    choose("on")
    assert found["timed"] == [False, False]


def test_all_processes_decide_alike(found):
    assert choose("auto", ranks=OtherDisagrees()) == (False, False)
    with pytest.raises(UserError, match="another process"):
        choose("on", ranks=OtherDisagrees())


APEX = types.SimpleNamespace(checkpoint_key="amp")
OBSTACLES = [
    ("sMLPNet alone", {"model": ("spach_xxs_patch16_224_mlp", {})}),
    ("not reshape", {"model": ("smlpnet_tiny", {"token_layout": "reshape"})}),
    ("--amp native", {"precision": APEX}),
    ("--sync-bn", {"syncs": True}),
    ("--compile on", {"compiles": True}),
]


@pytest.mark.parametrize("reason, changes", OBSTACLES)
def test_what_they_cannot_do_is_named(found, caplog, reason, changes):
    changes = dict(changes)
    name, keywords = changes.pop("model", ("smlpnet_tiny", {}))
    model = create_tiny_model(name, image_size=32, **keywords)
    with caplog.at_level(logging.INFO):
        assert choose("auto", model, **changes) == (False, False)
    assert reason in caplog.text
    with pytest.raises(UserError, match=reason):
        choose("on", model, **changes)
    assert found["timed"] == []


def test_what_is_missing_is_named(found, monkeypatch):
    with pytest.raises(UserError, match="need a CUDA device, not cpu"):
        choose("on", kind="cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("on", kind="cpu") == (True, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="triton is not installed"):
        choose("on")
    monkeypatch.setattr(choice, "torch", types.SimpleNamespace())
    with pytest.raises(UserError, match="no custom operators"):
        choose("on")


def test_the_kernels_are_imported_where_they_are_used_alone():
    """They import Triton, which an environment may lack; so may torch."""
    code = "import sys, main, training.build; print([name for name in %r if name in sys.modules])" % KERNELS
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert done.stdout.decode().strip() == "[]"
