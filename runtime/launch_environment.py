"""The launcher's environment variables: the rank of this process, the rendezvous address, and its processor cores."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Mapping, MutableMapping

from runtime.affinity import usable_cores
from runtime.errors import UserError

FIRST_SPECIAL_STEP = 0xFFFFFFF0  # from here on Slurm numbers the batch script and interactive shells, not srun's steps


@dataclass(frozen=True)
class Launch:
    """The rank of this process among all and among those of its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None  # None if the launcher does not set it


def read_launch(environ: Mapping[str, str], local_rank: int | None = None) -> Launch:
    """Return the Launch that torchrun, torch.distributed.launch, the wrappers or Slurm set in `environ`.

    `local_rank` is the value of --local_rank, which torch.distributed.launch passes instead of LOCAL_RANK.
    """
    local_world_size: int | None
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, world_size = int_variable(environ, "RANK"), int_variable(environ, "WORLD_SIZE", least=1)
        if "LOCAL_RANK" in environ:
            local_rank = int_variable(environ, "LOCAL_RANK")
        elif local_rank is None:
            local_rank = rank
        # torch.distributed.launch of torch 1.x does not set the number of processes on this machine
        local_world_size = int_variable(environ, "LOCAL_WORLD_SIZE", 0) or None
    elif int_variable(environ, "SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in environ:
        rank, world_size = int_variable(environ, "SLURM_PROCID"), int_variable(environ, "SLURM_NTASKS")
        local_rank = int_variable(environ, "SLURM_LOCALID", rank)
        tasks_per_node = -(-world_size // int_variable(environ, "SLURM_NNODES", 1, least=1))
        local_world_size = int_variable(environ, "SLURM_NTASKS_PER_NODE", tasks_per_node, least=1)
    else:
        return Launch(0, 1, local_rank or 0, 1)
    if not rank < world_size:
        message = "the launcher's variables are wrong: rank %d of %d processes" % (rank, world_size)
        raise UserError(message, one_rank=True)
    return Launch(rank, world_size, local_rank, local_world_size)


def int_variable(
    environ: Mapping[str, str], name: str, default: int | None = None, least: int = 0, most: int = 10**6
) -> int:
    """Return the integer in the variable `name`; UserError unless it is one within the limits."""
    value = environ.get(name, default)
    try:
        number = int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if number is None or not least <= number <= most:
        message = "the environment variable %s must be an integer from %d to %d, it is %r" % (name, least, most, value)
        raise UserError(message, one_rank=True)
    return number


def set_slurm_rendezvous(environ: MutableMapping[str, str]) -> None:
    """Set MASTER_ADDR and MASTER_PORT, which Slurm leaves unset, to the same values in all tasks of a job."""
    if not is_slurm(environ):
        return
    if "MASTER_ADDR" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or ""
        environ["MASTER_ADDR"] = _first_host(nodes)
    environ.setdefault("MASTER_PORT", str(20000 + int_variable(environ, "SLURM_JOB_ID", 0, most=2**63) % 20000))


def waiting_text(environ: Mapping[str, str], launch: Launch, address: str) -> str:
    """Return what a process reports that waits for the others, and who should have started them."""
    text = "rank %d waits for the other processes of %d at %s" % (launch.rank, launch.world_size, address)
    if not is_slurm(environ):
        return text
    if is_outside_of_a_step(environ):
        return text + (
            "; Slurm starts one process a task only by srun, and this one was started without: write srun before "
            "python in the batch script"
        )
    return text + ", which srun starts"


def is_slurm(environ: Mapping[str, str]) -> bool:
    """Return whether this process takes its rank from Slurm's variables."""
    return "SLURM_PROCID" in environ and "RANK" not in environ


def is_outside_of_a_step(environ: Mapping[str, str]) -> bool:
    """Return whether Slurm started this process without srun: in a batch script, or in an interactive shell."""
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    return is_slurm(environ) and not (step.isdigit() and int(step) < FIRST_SPECIAL_STEP)


def _first_host(nodes: str) -> str:
    if nodes and shutil.which("scontrol"):
        command = ["scontrol", "show", "hostnames", nodes]
        listed = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 - a list, no shell
        if listed.returncode == 0 and listed.stdout:
            return listed.stdout.decode().split()[0]
    if not nodes or "[" in nodes:
        return "127.0.0.1"
    return nodes.split(",")[0]


def cores_per_process(environ: Mapping[str, str], launch: Launch) -> int:
    """Return the number of cores of this process: those it is bound to, otherwise its part of the machine's."""
    usable = usable_cores()
    bound = usable < (os.cpu_count() or 1) or ("SLURM_CPUS_PER_TASK" in environ and "RANK" not in environ)
    return usable if bound else max(1, usable // (launch.local_world_size or launch.world_size))
