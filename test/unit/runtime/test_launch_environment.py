"""The variables of each launcher."""

import pytest

from runtime.errors import UserError
from runtime.launch_environment import Launch, is_outside_of_a_step, read_launch


@pytest.mark.parametrize(
    "environ, option, want",
    [
        ({}, None, Launch(0, 1, 0, 1)),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            None,
            Launch(5, 8, 1, 4),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, Launch(1, 2, 1, None)),  # torch.distributed.launch without --use_env
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
            None,
            Launch(3, 4, 1, 2),
        ),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, None, Launch(3, 4, 3, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None, Launch(0, 1, 0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "RANK": "0", "WORLD_SIZE": "1"}, None, Launch(0, 1, 0, None)),
    ],
)
def test_launchers(environ, option, want):
    assert read_launch(environ, option) == want


@pytest.mark.parametrize("environ", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_broken_launchers(environ):
    with pytest.raises(UserError):
        read_launch(environ)


@pytest.mark.parametrize(
    "environ, outside",
    [
        ({"SLURM_PROCID": "0"}, True),  # a batch script
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}, True),  # an interactive shell
        ({"SLURM_PROCID": "0", "SLURM_STEPID": "4294967291"}, True),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, False),
        ({"SLURM_PROCID": "1", "SLURM_STEPID": "3"}, False),
        ({"SLURM_PROCID": "0", "RANK": "0"}, False),  # torchrun in a batch script
        ({}, False),
    ],
)
def test_who_was_started_without_srun(environ, outside):
    assert is_outside_of_a_step(environ) == outside
