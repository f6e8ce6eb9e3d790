"""The process group "hccl" reduces what HCCL reduces, on npu tensors only."""

import copy

import pytest
import torch
from torch import distributed, nn

if not hasattr(torch, "npu"):
    pytest.skip("no NPU in this process: test/system/test_npu.py runs this file with one", allow_module_level=True)


def run_ranks(function, folder, size=2):
    torch.multiprocessing.spawn(in_group, args=(function, size, str(folder / "store")), nprocs=size)


def in_group(rank, function, size, path):
    if function is not without_a_device:
        torch.npu.set_device(0 if function is on_the_same_device else rank)
    distributed.init_process_group("hccl", init_method="file://" + path, rank=rank, world_size=size)
    function(rank, size)
    distributed.destroy_process_group()


def collectives(rank, size):
    for dtype in (torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32):
        value = torch.full((3,), rank + 1, dtype=dtype, device="npu")
        distributed.all_reduce(value)
        assert value.tolist() == [3, 3, 3]
    value = torch.full((2,), float(rank), device="npu")
    distributed.broadcast(value, 1)
    assert value.tolist() == [1, 1]
    gathered = [torch.empty(2, device="npu") for _ in range(size)]
    distributed.all_gather(gathered, torch.full((2,), float(rank), device="npu"))
    assert torch.stack(gathered).tolist() == [[0, 0], [1, 1]]
    flat = torch.empty(4, device="npu")
    distributed.all_gather_into_tensor(flat, torch.full((2,), float(rank), device="npu"))
    assert flat.tolist() == [0, 0, 1, 1]
    objects = [None] * size
    distributed.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": 0}, {"rank": 1}]
    work = distributed.all_reduce(value, async_op=True)
    assert work.get_future().wait()[0].device.type == "npu"
    distributed.barrier()


def refusals(rank, size):
    for dtype in (torch.float64, torch.uint8, torch.bool):
        with pytest.raises(RuntimeError, match="HCCL AllReduce & Reduce: Unsupported data type"):
            distributed.all_reduce(torch.ones(2, device="npu", dtype=dtype))
    with pytest.raises(RuntimeError, match="cpu"):
        distributed.all_reduce(torch.ones(2))
    value = torch.ones(2, device="npu")
    with pytest.raises(RuntimeError, match="gather"):
        distributed.gather(value, [torch.empty(2, device="npu") for _ in range(size)] if rank == 0 else None)
    distributed.all_reduce(value)
    with pytest.raises(RuntimeError, match="communicator"):
        distributed.all_reduce(torch.ones(2, device="npu:%d" % (rank + 4)))
    with pytest.raises(RuntimeError, match="contiguous"):
        distributed.all_reduce(torch.ones(2, 3, device="npu").t())


def on_the_same_device(rank, size):
    distributed.all_reduce(torch.ones(2, device="npu"))


def without_a_device(rank, size):
    pass


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 300), nn.Linear(300, 2))


def gradients(model, images):
    model(images.to("npu")).square().mean().backward()
    return [parameter.grad.cpu() for parameter in model.parameters()]


def data_parallel(rank, size):
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = gradients(make_model().to("npu"), images)
    model = make_model()
    if rank:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)  # the first rank's weights are what counts
    model = nn.parallel.DistributedDataParallel(model.to("npu"), device_ids=[rank], bucket_cap_mb=0.1)
    for _ in range(3):  # the buckets are rebuilt after the first step
        model.zero_grad()
        together = gradients(model, images[rank::size])
        for mine, want in zip(together, alone):
            assert torch.allclose(mine, want, atol=1e-6)
    assert copy.deepcopy(model.module)[0].weight.device.index == rank


@pytest.mark.parametrize("function", [collectives, refusals, data_parallel])
def test_ranks(tmp_path, function):
    run_ranks(function, tmp_path)


@pytest.mark.parametrize(
    "function, message",
    [(on_the_same_device, "is used by two ranks"), (without_a_device, "set_device before init_process_group")],
)
def test_each_rank_needs_a_device(tmp_path, function, message):
    with pytest.raises(Exception, match=message):
        run_ranks(function, tmp_path)
