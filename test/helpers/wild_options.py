"""Hypothesis strategies for anything that may stand on a command line or in a configuration file.

They are made from the parser, so an option that is new there is covered without a word here.
"""

import datetime

import pytest

from runtime.compat import timm

REASON = "hypothesis is not installed (python -m pip install hypothesis)"
st = pytest.importorskip("hypothesis.strategies", reason=REASON)

# What lies in the folder that the examples run in (see the `sandbox` of test_options_property), and what does not.
PATHS = ["", ".", "a file", "a file/below", "a folder", "a folder/", "binary", "empty", "missing", "missing/below"]
PATHS += ["run", "run/checkpoint.pth", "other.pth", "loop", "dangling", "/dev/null", "/proc/self/mem"]

NUMBERS = ["0", "1", "2", "3", "4", "7", "31", "64", "100", "1000", "0.5", "0.999999999", "1.5", "-0.0", "-1", "-0.5"]
NUMBERS += [
    "1e-45",
    "1e-320",
    "1e-30",
    "1e-8",
    "1e-3",
    "1e3",
    "1e6",
    "1e30",
    "1e38",
    "1e39",
    "1e308",
    "-1e308",
    "1e400",
]
NUMBERS += ["nan", "-nan", "inf", "-inf", "1" + 9 * "0", "1" + 30 * "0", "-1" + 30 * "0", 400 * "9", 5000 * "9"]
NUMBERS += ["2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"]
NUMBERS += ["", " 5 ", "+3", "1_000", "0x10", "1e", "١٢", "½", "None", "True", "1,5", "--", "-"]

EXTREMES = [
    "0",
    "1",
    "-1",
    "1e-320",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "1" + 9 * "0",
    "1" + 30 * "0",
    400 * "9",
    "",
    "--",
]

TEXTS = ["", " ", "\0", "a\0b", "new\nline", "\r", "\u2028", "\udc80", "\x1b[31m", "ünï", "日本", "🚀", 300 * "x"]
TEXTS += [5000 * "x", "--", "-", "-1", "--lr", "%s", "%d%n", "{}", "{0.__class__}", "$HOME", "~", "a=b", "'\"", "\\"]
TEXTS += ["none", "None", "null", "rand", "cosine", "adamw"]

POLICIES = ["rand", "rand-m9", "rand-", "rand--", "rand-n", "rand-m", "randm9", "rand-m9-mstd0.5-inc1", "rand-m9-w0"]
POLICIES += ["rand-n0", "rand-n20-w0", "rand-n20-tweights", "rand-n14-t3aw", "rand-t3a", "rand-tx", "rand-n1000000000"]
POLICIES += ["rand-m%s" % (400 * "9"), "rand-mstd1e308", "rand-m9-mmax100000", "rand-p7", "rand-p0.5", "rand-m5-m6"]
POLICIES += ["augmix", "augmix-m5-w4-d2", "augmix-w0", "augmix-w1000000000", "augmix-d1000000000", "augmix-a0"]
POLICIES += ["augmix-a1" + 300 * "0", "augmix-b1", "augmix-b1-w5", "augmix-m100", "augmix-mstd0", "augmix-a0.000001"]
POLICIES += [
    "original",
    "originalr",
    "v0",
    "v0r",
    "3a",
    "v0-mstd0.5",
    "original-mstd1e400",
    "v0-m5",
    "v0-",
    "original-x",
]

SCHEDULES = ["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant", "none", "plateau", "Cosine"]

URLS = ["env://", "env://?rank=x", "tcp://", "tcp://localhost", "tcp://localhost:x", "tcp://localhost:99999999"]
URLS += ["tcp://[", "file://", "file:///nowhere/at/all", "http://x", "://", "tcp:///?rank=0&rank=1"]

TRACKERS = ["tensorboard", "tensorboard,tensorboard", "tensorbord", ",", "wandb,", "tensorboard wandb", "TensorBoard"]

OPTIMIZERS = ["adahessian", "lbfgs", "fusedadam", "fusedsgd", "bnbsgd8bit", "Adam", "lookahead_adamw", "lookahead_"]
OPTIMIZERS += [
    "_adamw",
    "x_adamw",
    "lookahead_lookahead_sgd",
    "lookahead_adahessian",
    "sgd",
    "momentum",
    "radam",
    "nadam",
]
OPTIMIZERS += ["adamp", "sgdp", "adadelta", "adafactor", "rmsprop", "rmsproptf", "novograd", "nvnovograd", "plateau"]
# Those of the kron family compile themselves when timm is imported, for many seconds in the first step.
OPTIMIZERS += [name for name in getattr(timm.optim, "list_optimizers", list)() if not name.startswith("kron")]

SPECIAL = {"aa": POLICIES, "sched": SCHEDULES, "opt": OPTIMIZERS, "dist_url": URLS, "tracker": TRACKERS}
WRITES = ("output_dir", "index_cache", "eval_json")  # what an example writes stays in its folder


def _inside(path):
    if path in PATHS:
        return path
    return path.replace("/", "_").replace("..", "__")


def texts():
    return st.sampled_from(TEXTS) | st.text(max_size=12)


def numbers():
    anything = st.floats().map(repr) | st.integers().map(str)
    sensible = st.integers(0, 40).map(str) | st.floats(0, 2).map(repr)
    return st.sampled_from(NUMBERS) | sensible | anything | texts()


def policies():
    section = st.tuples(
        st.sampled_from(["m", "n", "p", "w", "d", "a", "b", "t", "inc", "mstd", "mmax", "x"]), numbers()
    )
    sections = st.lists(section.map("".join), max_size=3)
    kind = st.sampled_from(["rand", "augmix", "original", "v0", "3a"])
    return st.builds(lambda kind, sections: "-".join([kind, *sections]), kind, sections)


def values(action):
    """One value of the option `action` as text, sensible or not."""
    if action.choices is not None:
        return st.sampled_from([str(choice) for choice in action.choices]) | texts()
    if action.type is not None:
        return numbers()
    if action.dest in SPECIAL:
        known = st.sampled_from(SPECIAL[action.dest])
        return known | known | (policies() if action.dest == "aa" else texts())
    found = st.sampled_from(PATHS) | st.sampled_from(PATHS) | texts()
    return found.map(_inside) if action.dest in WRITES else found


def words(action):
    """The option `action` as words of a command line, in either spelling, its values apart or after `=`."""
    flags = st.sampled_from([*action.option_strings, *(_with_underscores(flag) for flag in action.option_strings)])
    if action.nargs == 0:
        return st.one_of(flags, flags, st.builds("{}={}".format, flags, texts())).map(lambda flag: [flag])
    if action.nargs is None:
        value = values(action)
        return st.builds(lambda flag, value: [flag, value], flags, value) | st.builds(
            lambda flag, value: ["%s=%s" % (flag, value)], flags, value
        )
    count = action.nargs if isinstance(action.nargs, int) else 2
    right = st.lists(values(action), min_size=count, max_size=count)
    return st.builds(lambda flag, items: [flag, *items], flags, right | st.lists(values(action), max_size=4))


def known_words(action):
    """The hard cases of the option `action` in full, each as words."""
    if action.nargs == 0:
        return []
    if action.type is not None or action.choices is not None:
        hard = EXTREMES
    else:
        hard = SPECIAL.get(action.dest, PATHS) + TEXTS
    if action.dest in WRITES:
        hard = [_inside(text) for text in hard]
    flag = action.option_strings[0]
    if action.nargs is None:
        return [["%s=%s" % (flag, text)] for text in hard]
    return [[flag] + count * [text] for text in hard for count in (1, 2, 4)]


def _with_underscores(flag):
    return "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag


def several(actions):
    """Two or three options at once, as words."""
    one = st.sampled_from(actions).flatmap(words)
    return st.lists(one, min_size=2, max_size=3).map(lambda parts: [word for part in parts for word in part])


def yaml_values():
    """What a YAML file may hold in the place of an option's value."""
    of_time = [datetime.date(2001, 2, 3), datetime.datetime(2001, 2, 3, 4, 5)]
    leaves = st.one_of(
        st.none() | st.booleans() | st.integers() | st.floats(),
        st.sampled_from([10**9, 10**30, b"\0\xff", set(), {"x"}, *of_time]),
        st.sampled_from([text for text in TEXTS + NUMBERS if _has_utf8(text)]),
    )
    keys = st.sampled_from(["a", "lr", ""])
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


def _has_utf8(text):
    return "\udc80" not in text


def mappings(actions):
    """One to three options for a YAML file, as a dictionary of good and bad values."""

    def entry(action):
        value = values(action).filter(_has_utf8)
        if action.dest not in WRITES:
            value = value | yaml_values()
        return st.tuples(st.just(action.dest), value | st.lists(value, max_size=3) if action.nargs else value)

    return st.lists(st.sampled_from(actions).flatmap(entry), min_size=1, max_size=3).map(dict)


FILES = [
    "",
    "\0",
    "- a\n- b",
    "a: [",
    "lr",
    "lr: [[1]]",
    "opt_betas: &a [*a]",
    "&a {lr: *a}",
    "lr: *a",
    "? [a]\n: b",
    "1: 2",
]
FILES += ["{[a]: b}", "lr: 1\nlr: 2", "%YAML 9.9\n---\nlr: 1", "---\nlr: 1\n---\nlr: 2", "lr:\t1", "\tlr: 1", "null: 1"]
FILES += ["lr: !!int x", "lr: !!float x", "lr: !!bool x", "lr: !!timestamp x", "lr: !!binary x", "lr: !!set {a, b}"]
FILES += ["lr: !!python/object/apply:os.getcwd []", "lr: !x 1", "epochs: 2001-99-99", "epochs: 12:30:45", "lr: 1e-3"]
FILES += ["epochs: 0x" + 5000 * "F", "epochs: " + 5000 * "9", "0x%s: 1" % (5000 * "F"), "epochs: 0b2", "epochs: 010"]
FILES += [
    3000 * "[",
    3000 * "{a: ",
    "lr: " + 3000 * "[",
    60000 * "a: 1\n",
    "lr: 1\n" + 10**6 * "#",
    "lr: '" + 9999 * "x",
]
FILES += ["%s: %s" % (name, "*x" + "9") for name in ("lr", "opt_betas")]
BOMB = "x0: &x0 [1]\n" + "".join("x%d: &x%d [%s]\n" % (i, i, ", ".join(9 * ["*x%d" % (i - 1)])) for i in range(1, 10))
FILES += [BOMB, BOMB.replace("x9:", "lr:"), BOMB.replace("x9:", "opt_betas:"), BOMB + "model_ema: *x9"]
FILES += [BOMB.replace("x0: &x0 [1]", "lr: &x0 [1]").replace("x9:", "opt_betas:")]
MERGES = "x0: &x0 {a: 1}\n" + "".join(
    "x%d: &x%d {<<: [%s]}\n" % (i, i, ", ".join(9 * ["*x%d" % (i - 1)])) for i in range(1, 12)
)
FILES += [MERGES]


def files():
    """The bytes of a configuration file that is none, or nearly one."""
    line = st.builds("{}: {}".format, st.sampled_from(["lr", "epochs", "opt_betas", "model_ema", "aa"]), texts())
    near = st.lists(line, max_size=3).map("\n".join) | st.sampled_from(FILES)
    return near.map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary(max_size=40)
