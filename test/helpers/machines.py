"""Two machines: network namespaces of Linux, joined by a cable."""

import os
import subprocess

# Namespaces belong to the whole computer, on which another checkout may be tested at the same time.
FIRST, SECOND = NAMES = ["spach%s%d" % (letter, os.getpid()) for letter in "ab"]
ADDRESSES = {FIRST: "10.213.7.1", SECOND: "10.213.7.2"}
CABLE = "veth0"


def ip(*words):
    """Run the command ip of iproute2."""
    return subprocess.run(["ip", *words], stderr=subprocess.PIPE, text=True)
