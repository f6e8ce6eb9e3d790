"""Objects that run code where they are unpickled."""

import argparse
import builtins
import os
import subprocess

import numpy
import torch


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def harms(folder):
    """Return objects that leave a file or folder "harm" behind where they are unpickled by an ordinary unpickler."""
    target = os.path.join(str(folder), "harm")
    write = "open(%r, 'w').close()" % target
    return {
        "mkdir": Calls(os.mkdir, target),
        "system": Calls(os.system, "touch '%s'" % target),
        "eval": Calls(builtins.eval, write),
        "exec": Calls(builtins.exec, write),
        "getattr": Calls(builtins.getattr, dict, "keys"),
        "popen": Calls(subprocess.Popen, ["touch", target]),
        "numpy": Calls(numpy.save, target + ".npy", 1),
        "torch": Calls(torch.save, 1, target),
        "hub": Calls(torch.hub.load, str(folder), "x"),
        "namespace": argparse.Namespace(a=Calls(os.mkdir, target)),
    }
