"""What the launcher says of this process: its rank among the others, where they meet, and its share of the cores."""

import os
import shutil
import subprocess
from collections import namedtuple

from runtime.affinity import usable_cores
from runtime.errors import UserError

Launch = namedtuple("Launch", "rank world_size local_rank local_world_size")


def read_launch(environ, local_rank=None):
    """The Launch that torchrun, torch.distributed.launch, the wrappers or Slurm describe in `environ`.

    `local_rank` is the option of the same name, which torch.distributed.launch passes instead of LOCAL_RANK.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, world_size = int_variable(environ, "RANK"), int_variable(environ, "WORLD_SIZE", least=1)
        if "LOCAL_RANK" in environ:
            local_rank = int_variable(environ, "LOCAL_RANK")
        elif local_rank is None:
            local_rank = rank
        # torch.distributed.launch of torch 1.x does not say how many processes this machine has
        local_world_size = int_variable(environ, "LOCAL_WORLD_SIZE", 0) or None
    elif int_variable(environ, "SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in environ:
        rank, world_size = int_variable(environ, "SLURM_PROCID"), int_variable(environ, "SLURM_NTASKS")
        local_rank = int_variable(environ, "SLURM_LOCALID", rank)
        tasks_a_node = -(-world_size // int_variable(environ, "SLURM_NNODES", 1, least=1))
        local_world_size = int_variable(environ, "SLURM_NTASKS_PER_NODE", tasks_a_node, least=1)
    else:
        return Launch(0, 1, local_rank or 0, 1)
    if not rank < world_size:
        message = "the launcher's variables are wrong: rank %d of %d processes" % (rank, world_size)
        raise UserError(message, one_rank=True)
    return Launch(rank, world_size, local_rank, local_world_size)


def int_variable(environ, name, default=None, least=0, most=10**6):
    """The integer in the variable `name`; UserError where it has none within the limits."""
    value = environ.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not least <= number <= most:
        message = "the environment variable %s must be an integer from %d to %d, it is %r" % (name, least, most, value)
        raise UserError(message, one_rank=True)
    return number


def set_slurm_rendezvous(environ):
    """Fill in MASTER_ADDR and MASTER_PORT, which Slurm does not set, so that all tasks of a job agree."""
    if "SLURM_PROCID" not in environ or "RANK" in environ:
        return
    if "MASTER_ADDR" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or ""
        environ["MASTER_ADDR"] = _first_host(nodes)
    environ.setdefault("MASTER_PORT", str(20000 + int_variable(environ, "SLURM_JOB_ID", 0, most=2**63) % 20000))


def _first_host(nodes):
    if nodes and shutil.which("scontrol"):
        command = ["scontrol", "show", "hostnames", nodes]
        listed = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 - a list, no shell
        if listed.returncode == 0 and listed.stdout:
            return listed.stdout.decode().split()[0]
    if not nodes or "[" in nodes:
        return "127.0.0.1"
    return nodes.split(",")[0]


def cores_per_process(environ, launch):
    """The processor cores for one process: its own where it is bound to some, else its part of them all."""
    usable = usable_cores()
    bound = usable < (os.cpu_count() or 1) or ("SLURM_CPUS_PER_TASK" in environ and "RANK" not in environ)
    return usable if bound else max(1, usable // (launch.local_world_size or launch.world_size))
