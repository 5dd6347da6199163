"""Two minutes of benchmarks/soak.py, which takes half an hour."""

import pytest
import support

from benchmarks import soak

pytestmark = [pytest.mark.host, pytest.mark.slow]
dev = support.dev
MINUTES = 2


def test_memory_handles_and_threads_stay_and_the_first_picture_comes_again(host_dir):
    soak.place(dev.base_dir())
    log = dev.cache_dir() / "test-soak.log"
    with dev.Server(arguments=soak.SERVER, log=log, cpu=True, environment=soak.ALLOCATOR) as server:
        held = soak.hold(server, 60 * MINUTES, seed=1)
    print(f"{held.prompts} prompts, memory {[f'{g:+.1%}' for g in held.grown]}, handles {held.new_handles:+d}")
    assert held.same
    assert max(held.grown) < 0.05  # two minutes settle less than thirty; a model kept by each prompt would be over 25 %
    assert held.new_handles <= 2 and held.new_threads <= 2
