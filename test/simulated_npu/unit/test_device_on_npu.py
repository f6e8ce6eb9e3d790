"""The simulated NPU is a device of its own: what hardware refuses, it refuses."""

import copy
import io
import multiprocessing

import pytest
import torch
from torch.nn import functional

if not hasattr(torch, "npu"):
    pytest.skip("no NPU in this process: test/system/test_npu.py runs this file with one", allow_module_level=True)


@pytest.fixture(autouse=True)
def first_device():
    torch.npu.set_device(0)


@pytest.mark.parametrize("other", ["cpu", "npu:1"])
def test_devices_do_not_mix(other):
    here, there = torch.ones(2, 2, device="npu"), torch.ones(2, 2, device=other)
    image, kernel = torch.ones(1, 1, 2, 2, device="npu"), torch.ones(1, 1, 1, 1, device=other)
    norm = torch.nn.LayerNorm(2).to(other)
    for mix in (
        lambda: here + there,
        lambda: there + here,
        lambda: there.add_(here),
        lambda: here.mul_(there),
        lambda: here @ there,
        lambda: torch.cat([here, there]),
        lambda: torch.stack([here, there]),
        lambda: torch.where(here > 0, here, there),
        lambda: torch.equal(here, there),
        lambda: functional.linear(here, there),
        lambda: functional.conv2d(image, kernel),
        lambda: functional.cross_entropy(here, torch.zeros(2, dtype=torch.long, device=other)),
        lambda: functional.batch_norm(here, there[0], there[0]),
        lambda: norm(here),
        lambda: torch._foreach_add([here], [there]),
        lambda: torch.add(here, here, out=there),
        lambda: here.set_(there.untyped_storage()),
        lambda: here.gather(0, torch.zeros(2, 2, dtype=torch.long, device=other)),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mix()


def test_a_cpu_scalar_is_taken_where_hardware_takes_it():
    here = torch.ones(2, 2, device="npu")
    assert (here + torch.tensor(2.0)).tolist() == [[3, 3], [3, 3]]
    here[0] = torch.tensor(5.0)
    assert here[torch.tensor([1, 0])].tolist() == [[1, 1], [5, 5]]  # indices may lie on the CPU
    with pytest.raises(RuntimeError):
        torch.tensor(2.0).add_(here[0, 0])
    with pytest.raises(RuntimeError):
        torch.tensor(2.0).add_(here)


def test_no_other_accelerator_and_no_numpy():
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1).cuda()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device="cuda")
    with pytest.raises(TypeError):
        torch.ones(1, device="npu").numpy()
    with pytest.raises(RuntimeError):
        torch.ones(1, device="npu").pin_memory()


def test_an_index_that_is_not_there():
    assert torch.npu.device_count() == torch.accelerator.device_count() == 8
    for use in (lambda: torch.ones(1, device="npu:8"), lambda: torch.npu.set_device(8)):
        with pytest.raises(RuntimeError, match="ordinal 8"):
            use()


def in_a_fork(use):
    def child(queue):
        try:
            use()
            queue.put("it worked")
        except RuntimeError as error:
            queue.put(str(error))

    torch.ones(1, device="npu")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    outcome = queue.get()
    process.join()
    return outcome


def test_a_forked_child_cannot_use_it():
    there = torch.ones(3, device="npu")
    for use in (lambda: torch.ones(1, device="npu"), lambda: there.sum(), lambda: there.cpu(), torch.npu.synchronize):
        assert "forked subprocess" in in_a_fork(use)
    assert in_a_fork(lambda: torch.manual_seed(3)) == "it worked"  # as loader workers do


class OnDevice(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, place):
        return torch.tensor(place).to("npu")


def test_loader_workers_cannot_use_it():
    torch.ones(1, device="npu")
    loader = torch.utils.data.DataLoader(OnDevice(), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="forked subprocess"):
        next(iter(loader))


def test_the_current_device():
    torch.npu.set_device(2)
    assert torch.ones(1).to("npu").device == torch.ones(1, device="npu").device == torch.device("npu:2")
    assert torch.npu.current_device() == torch.accelerator.current_device_index() == 2
    assert (torch.ones(1, device="npu:1") * 2).device == torch.device("npu:1")
    with torch.npu.device(3):
        assert torch.ones(1).npu().device == torch.device("npu:3")
    assert torch.accelerator.current_accelerator() == torch.device("npu")
    torch.npu.synchronize()
    torch.accelerator.synchronize()


def test_views_share_memory_and_copies_do_not():
    base = torch.zeros(2, 6, device="npu")
    views = [
        base.view(3, 4)[1],
        base.t()[0],
        base.unfold(1, 2, 2)[0],
        base.chunk(2)[0],
        base.unbind()[1],
        base.detach(),
    ]
    for view in views:
        view.add_(1)
        assert view.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
    assert base.sum() == sum(view.numel() for view in views)
    copied = copy.deepcopy(base)
    copied.zero_()
    assert base.sum() > 0 and copied.device == base.device
    base.resize_(20).fill_(1)
    assert base.sum() == 20
    with torch.inference_mode():
        assert base[:3].mul(2).sum() == 6


def test_fresh_memory_is_not_zero():
    assert torch.empty(5, device="npu").isnan().all()


def test_results_are_the_cpus():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, groups=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.LayerNorm(128),
        torch.nn.Linear(128, 5),
    )
    images, targets = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])

    def gradients(device):
        copied = copy.deepcopy(model).to(device)
        loss = functional.cross_entropy(copied(images.to(device)), targets.to(device), label_smoothing=0.1)
        loss.backward()
        return [loss.detach()] + [parameter.grad for parameter in copied.parameters()]

    for here, there in zip(gradients("cpu"), gradients("npu")):
        assert there.device.type == "npu"
        assert torch.allclose(here, there.cpu(), atol=1e-6)


def test_a_cast_to_float64_gives_float32():
    here = torch.ones(1, device="npu")
    assert here.to(torch.float64).dtype == here.double().dtype == torch.float32
    assert torch.tensor(1.0, dtype=torch.float64, device="npu").dtype == torch.float64


def test_memory_figures_and_limit(monkeypatch):
    torch.npu.empty_cache()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    large = torch.empty(1 << 20, dtype=torch.uint8, device="npu")
    del large
    assert torch.npu.max_memory_allocated() - before == 1 << 20
    assert torch.npu.memory_allocated() == before
    assert torch.accelerator.max_memory_allocated() == torch.npu.max_memory_allocated()
    monkeypatch.setenv("SIMULATED_NPU_MEMORY_MIB", "16")
    with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        torch.empty(17 << 20, dtype=torch.uint8, device="npu")


def test_pinned_memory():
    plain = torch.ones(3)
    pinned = plain.pin_memory()
    assert pinned.is_pinned() and pinned[1:].is_pinned() and not plain.is_pinned()
    assert pinned.to("npu", non_blocking=True).sum() == 3
    loader = torch.utils.data.DataLoader(torch.arange(4.0), batch_size=2, pin_memory=True, num_workers=1)
    assert all(batch.is_pinned() for batch in loader)


def test_saved_tensors_remember_their_device():
    file = io.BytesIO()
    torch.save({"w": torch.arange(3, device="npu:1")}, file)
    for options, device in (({}, "npu:1"), ({"map_location": "cpu"}, "cpu"), ({"map_location": "npu:2"}, "npu:2")):
        file.seek(0)
        loaded = torch.load(file, weights_only=True, **options)["w"]
        assert loaded.device == torch.device(device) and loaded.tolist() == [0, 1, 2]


def test_streams_and_events():
    first, last = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    with torch.npu.stream(torch.npu.Stream()):
        first.record()
        value = torch.ones(3, device="npu") * 2
        value.record_stream(torch.npu.current_stream())
        last.record()
    last.synchronize()
    assert last.query() and first.elapsed_time(last) >= 0
