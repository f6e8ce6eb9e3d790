"""Whole programs where /dev/shm has no room, or few files may be open: they work, with a warning and no traceback."""

import os
import resource
import subprocess
import sys

import pytest
from image_folders import write_images
from paths import HELPERS, ROOT
from processes import clean_environment
from warm_runs import words_for

CHECK = os.path.join(ROOT, "tools", "check_data.py")
MAIN = os.path.join(HELPERS, "small_main.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(str(tmp_path_factory.mktemp("small machines") / "images"), train=24)


def run(command, wrapper=(), **options):
    """Return what the Python `command` prints in all, after it has ended with status 0."""
    environ = clean_environment(OMP_NUM_THREADS="1")
    command = [*wrapper, sys.executable, *command]
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, **options
    )
    text = done.stdout.decode()
    assert done.returncode == 0 and "Traceback" not in text, text
    return text


@pytest.fixture
def little_shared_memory():
    """The words before a command that let it find 64 KB in /dev/shm."""
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    wrapper = ["unshare", "-m", "bash", "-c", script, "-"]
    try:
        tried = subprocess.run([*wrapper, "true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        pytest.skip("NOT CHECKED: no mount namespace can be made here (%s)" % error)
    if tried.returncode:
        pytest.skip("NOT CHECKED: no mount namespace can be made here (%s)" % tried.stdout.decode().strip())
    return wrapper


def test_a_run_with_little_shared_memory(data, little_shared_memory, tmp_path):
    """Not all workers fit, and the batches of those that do are nowhere near."""
    words = words_for(data, tmp_path / "out", "--num-workers=8", "--epochs=1", "--batch-size=8", "--input-size=64")
    text = run([MAIN, *words], little_shared_memory)
    assert "no room for 8 loader processes (No space left on device)" in text and "--shm-size" in text


def test_a_check_with_little_shared_memory(data, little_shared_memory):
    text = run([CHECK, data, "--num-workers=3"], little_shared_memory)
    assert "no room for 3 loader processes (No space left on device): 1 used instead" in text


@pytest.mark.parametrize("program", ["main.py", "check_data.py"])
def test_few_open_files(data, tmp_path, program):
    """The soft limit is raised to the hard one, which is low here."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 36))

    words = words_for(data, tmp_path / "out", "--num-workers=4", "--epochs=1")
    command = [MAIN, *words] if program == "main.py" else [CHECK, data, "--num-workers=4"]
    text = run(command, preexec_fn=limit)
    assert "no room for 4 loader processes (Too many open files)" in text and "ulimit -n" in text
