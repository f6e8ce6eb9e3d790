"""Two machines: network namespaces of Linux, joined by a cable."""

import os
import shutil
import subprocess

import pytest

# Namespaces belong to the whole computer, on which another checkout may be tested at the same time.
FIRST, SECOND = NAMES = ["spach%s%d" % (letter, os.getpid()) for letter in "ab"]
ADDRESSES = {FIRST: "10.213.7.1", SECOND: "10.213.7.2"}
CABLE = "veth0"


def ip(*words):
    """Run the command ip of iproute2."""
    return subprocess.run(["ip", *words], stderr=subprocess.PIPE, text=True)


@pytest.fixture
def machines():
    """The machines FIRST and SECOND, reached by the prefix `ip netns exec NAME`; gives the function `ip`."""
    if not shutil.which("ip"):
        pytest.skip("NOT CHECKED: two machines; the command ip (iproute2) is missing")
    made = ip("netns", "add", FIRST)
    if made.returncode:
        pytest.skip("NOT CHECKED: two machines; no network namespace can be made here (%s)" % made.stderr.strip())
    try:
        assert ip("netns", "add", SECOND).returncode == 0
        link = ["link", "add", CABLE, "netns", FIRST, "type", "veth", "peer", "name", CABLE, "netns", SECOND]
        assert ip(*link).returncode == 0
        for name, address in ADDRESSES.items():
            for words in (["addr", "add", address + "/24", "dev", CABLE], ["link", "set", CABLE, "up"]):
                assert ip("-n", name, *words).returncode == 0
            assert ip("-n", name, "link", "set", "lo", "up").returncode == 0
        yield ip
    finally:
        for name in NAMES:
            ip("netns", "delete", name)
