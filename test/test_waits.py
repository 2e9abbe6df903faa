"""What is done in every step must not make the host wait for a GPU: seen on tensors that only say they are on one."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl_core.colour import recolour
from mmcl_core.nn import gather
from mmcl_core.nn.memory import MemoryBank


class Waits(TorchDispatchMode):
    """Counts copies from the host that are not left to their turn, and questions about values."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        copied = function == torch.ops.aten._to_copy.default and not kwargs.get("non_blocking")
        here, there = (getattr(args[0], "device", None) if args else None), kwargs.get("device")
        crossed = copied and there is not None and torch.device(there).type != here.type
        self.count += crossed or function == torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs)


def colours(monkeypatch):
    image, numbers = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="cuda"), torch.zeros(4, 6, device="cuda")
    return lambda: recolour(image, numbers, 0.3, 0.1)


def bank(monkeypatch):
    memory = MemoryBank(range(9), 4).to("cuda")
    queries, index = torch.zeros(2, 4, device="cuda"), torch.arange(2, device="cuda")
    return lambda: (memory.loss(queries, index), memory.update(queries, index))


def mean_of_two_processes(monkeypatch):
    monkeypatch.setattr(gather, "processes", lambda: 2)
    monkeypatch.setattr(gather.dist, "all_reduce", lambda tensor: None)
    values = torch.zeros(4, device="cuda")
    return lambda: gather.mean_over_samples(values)


@pytest.mark.skipif(
    not torch.cuda.is_available() and tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 8),
    reason="tensors that only say they are on a GPU ask for a real one in PyTorch before 2.8",
)
@pytest.mark.parametrize("begin", [colours, bank, mean_of_two_processes], ids=lambda begin: begin.__name__)
def test_nobody_waits_for_the_device(begin, monkeypatch):
    with FakeTensorMode(allow_non_fake_inputs=True):
        work = begin(monkeypatch)
        with Waits() as waits:
            work()
    assert waits.count == 0


def test_a_question_is_counted():
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        torch.tensor(1.0, device="cuda")
    assert waits.count == 1
