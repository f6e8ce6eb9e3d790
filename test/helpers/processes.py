"""Processes that the tests start: their environment, their children and their end."""

import os
import random
import signal
import time


def clean_environment(**more):
    """Return the environment without what a launcher around the tests may have set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS")
    names += ("NNODES", "NODE_RANK")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    environ.update(more)
    return environ


def with_default_signals():
    """In a process to be: react to signals although the tests run under nohup or in the background of a script."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def children_of(pid):
    """Return the process numbers of a process's children, those of the main thread first."""
    found = []
    try:
        for thread in sorted(os.listdir("/proc/%d/task" % pid), key=int):
            with open("/proc/%d/task/%s/children" % (pid, thread)) as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass  # it has ended
    return found


def processes_of_session(session):
    """Return the processes of a session that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open("/proc/%s/stat" % name) as file:
                state, _, _, its_session = file.read().rsplit(")", 1)[1].split()[:4]
        except (OSError, ValueError, IndexError):
            continue
        if name.isdigit() and int(its_session) == session and state not in "ZX":
            found.append(int(name))
    return found


def is_running(pid):
    """Return whether the process has not ended."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(condition, seconds=300):
    """Wait until `condition()` holds."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(random.uniform(0.01, 0.05))


def kill_after(process, path, times):
    """Kill the whole group once the file at `path` has been replaced `times` times."""
    seen = set()

    def replaced():
        assert process.poll() is None, process.communicate()
        if os.path.exists(path):
            status = os.stat(path)
            seen.add((status.st_ino, status.st_mtime_ns))  # a freed inode number may be used again
        return len(seen) >= times

    wait_for(replaced)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
