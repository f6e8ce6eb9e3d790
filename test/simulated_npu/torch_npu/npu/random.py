"""Generators of the devices."""

import torch

from torch_npu import _C


def _generator(device):
    if isinstance(device, int):
        return _C.default_generator(device)
    index = torch.device(device).index
    return _C.default_generator(_C.current_device() if index is None else index)


def get_rng_state(device="npu"):
    _C.use_device()
    return _generator(device).get_state()


def set_rng_state(new_state, device="npu"):
    _C.use_device()
    _generator(device).set_state(new_state)


def get_rng_state_all():
    return [get_rng_state(index) for index in range(_C.device_count())]


def set_rng_state_all(new_states):
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def manual_seed(seed):
    """Seed the current device; like the real one, without initialising it."""
    if _C.device_count():
        _generator("npu").manual_seed(int(seed))


def manual_seed_all(seed):
    for index in range(_C.device_count()):
        _generator(index).manual_seed(int(seed))


def seed():
    _generator("npu").seed()


def seed_all():
    manual_seed_all(_generator(0).seed())


def initial_seed():
    return _generator("npu").initial_seed()
