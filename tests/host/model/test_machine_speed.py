"""The trial of the machine: once for a device and type, and no longer than it must be. No time is asserted."""

import pytest
import support
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.host
CPU = torch.device("cpu")


@pytest.fixture
def module(comfy):
    return support.dev.load_pack("host.model.machine_speed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_runs_and_its_multiplications_are_those_of_torch(module, dtype):
    with torch.inference_mode():
        forward, multiplications = module.block_of(256, 4, CPU, dtype)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # which counts no other
            out = forward()
    assert out.shape == (1, 16, 256) and out.dtype == dtype and out.isfinite().all()
    assert counter.get_total_flops() == 2 * multiplications


@pytest.mark.parametrize(
    "took, widths", [(1.0, [128]), (0.01, [128, 256, 512, 1024, 2048])], ids=["slow machine", "fast machine"]
)
def test_larger_blocks_are_tried_until_one_takes_long(module, monkeypatch, took, widths):
    monkeypatch.setattr(module, "block_of", lambda width, side, *_: (lambda: None, width * side))
    monkeypatch.setattr(module, "seconds", lambda forward, repeats=2: took)
    found = module.measured(CPU, torch.float32)
    assert list(found) == widths
    assert found[128] == 128 * 16 / took and found.get(2048, 0) in (0, 2048 * 64 / took)  # the largest picture


def test_a_device_is_tried_once_for_each_type_and_again_only_if_it_was_full(module, monkeypatch):
    answers = [torch.OutOfMemoryError(), {128: 1.0, 1024: 2.0}, RuntimeError("no such operation")]
    tried = []

    def measured(*machine):
        tried.append(machine)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module, "measured", measured)
    speed = module.MachineSpeed()
    assert speed.of(CPU, torch.float32, 3072) is None
    assert [speed.of(CPU, torch.float32, width) for width in (3072, 128)] == [2.0, 1.0]
    assert speed.of(CPU, torch.bfloat16, 128) is None and speed.of(CPU, torch.bfloat16, 128) is None
    assert len(tried) == 3
