"""Processor cores for each process of a machine, so that they stay off each other's caches, without numactl."""

import os

TOPOLOGY = "/sys/devices/system/cpu/cpu%d/topology/%s"


def usable_cores():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bind_cores(local_rank, processes):
    """Keep this process, and what it starts, on its share of the usable cores; the share, or None where the system
    cannot do it."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    usable = sorted(os.sched_getaffinity(0))
    share = cores_of(local_rank, processes, {cpu: _place_of(cpu) for cpu in usable})
    os.sched_setaffinity(0, share)
    return share


def cores_of(local_rank, processes, places):
    """The logical processors of one of `processes`, given {processor: (package, core)}.

    Neighbouring physical cores go to one process, with all their hardware threads, and a package is cut only if it must
    be. With more processes than cores the hardware threads are dealt out, and with more than those they are shared.
    """
    cores = {}
    for cpu in sorted(places, key=lambda cpu: (places[cpu], cpu)):
        cores.setdefault(places[cpu], []).append(cpu)
    units = list(cores.values())
    if len(units) < processes:
        units = [[cpu] for unit in units for cpu in unit]
    if len(units) < processes:
        return units[local_rank % len(units)]
    local_rank %= processes  # one process may well be told to take the second device
    first, last = (rank * len(units) // processes for rank in (local_rank, local_rank + 1))
    return sorted(cpu for unit in units[first:last] for cpu in unit)


def _place_of(cpu):
    try:
        numbers = []
        for name in ("physical_package_id", "core_id"):
            with open(TOPOLOGY % (cpu, name), encoding="ascii") as file:
                numbers.append(int(file.read()))
        return tuple(numbers)
    except (OSError, ValueError):
        return (0, cpu)  # a system that does not tell: every processor counts as a core
