"""Build the C++ part, once for each version of torch, in torch's cache of extensions: `python _build.py FOLDER`."""

import fcntl
import hashlib
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "csrc")


def _files(folder, *suffixes):
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(suffixes))


def library_path(torch_version):
    """Return the path of the extension; the first process builds it if necessary, while the others wait."""
    digest = hashlib.sha256(("%s %s" % (torch_version, sys.version)).encode())
    for path in _files(SOURCES, ".cpp", ".h") + [os.path.abspath(__file__)]:
        with open(path, "rb") as file:
            digest.update(file.read())
    cache = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.expanduser("~/.cache/torch_extensions")
    folder = os.path.join(cache, "simulated_npu_" + digest.hexdigest()[:16])
    path = os.path.join(folder, "_C.so")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                _build_in_a_process(folder, path)
    return path


def _build_in_a_process(folder, path):
    environ = dict(os.environ, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), folder],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    library = os.path.join(folder, "lib")
    built = _files(library, ".so") if os.path.isdir(library) else []
    if done.returncode or not built:
        raise ImportError("the simulated NPU does not build (is there a C++ compiler?):\n%s" % done.stdout[-4000:])
    os.replace(built[0], path)


def _build(folder):
    from setuptools import setup
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    flags = ["-O1", "-g0", "-std=c++20", "-fvisibility=hidden", "-w"]
    words = ["build_ext", "--build-lib", os.path.join(folder, "lib"), "--build-temp", os.path.join(folder, "objects")]
    os.chdir(HERE)
    setup(
        name="simulated_npu",
        script_args=["--quiet", *words],
        packages=[],
        ext_modules=[
            CppExtension("_C", [os.path.join("csrc", "whole.cpp")], extra_compile_args=flags, extra_link_args=["-s"])
        ],
        cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
    )


if __name__ == "__main__":
    _build(sys.argv[1])
