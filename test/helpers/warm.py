"""Starts the small network's main.py by fork from a process that has imported everything: `warm.py SOCKET`.

A cold process spends seconds on imports, and the tests start hundreds. Apart from that it is the same: tools/launch.py
runs as it is, with a process group of its own, and each rank is a process of its own below it.
"""

import atexit
import gc
import json
import os
import signal
import socket
import sys

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as launch.py sets it; torch reads it when it is imported

import small_main

from tools import launch


class Forked:
    """What tools/launch.py asks of subprocess.Popen, for a child made by fork."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)


def fork_rank(options, rank):
    pid = os.fork()
    if pid:
        return Forked(pid)
    launch.die_with_parent(signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(launch.environment_of(options, rank))
    sys.argv = [options.program] + options.arguments
    leave(small_main.main_with_small_model())


def leave(status):
    """End the process as sys.exit does, but without freeing what it shares with its parent: that takes seconds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve(path):
    """Take one order after another; each gets a process that sends the run's process number and its exit status."""
    launch.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path + ".new")
        server.listen(8)
        os.rename(path + ".new", path)  # by which others know that it listens
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                take_order(connection)
            connection.close()


def take_order(connection):
    order = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        run(order)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d\n" % (os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)))
    os._exit(0)


def run(order):
    os.setsid()
    for number, name in ((0, os.devnull), (1, order["stdout"]), (2, order["stderr"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    sys.argv = ["launch.py", "--nproc", str(order["nproc"]), small_main.__file__] + order["words"]
    if "ALONE" in os.environ:  # as one process of a launcher that is not there
        sys.argv = sys.argv[3:]
        leave(small_main.main_with_small_model())
    launch.start = fork_rank
    leave(launch.main())


if __name__ == "__main__":
    serve(sys.argv[1])
