"""Which stored weights a device multiplies as they are: it can, it gains by it, and it is asked once."""

import pytest
import support
import torch

pytestmark = pytest.mark.host
CPU = torch.device("cpu")


@pytest.fixture
def matmul(comfy):
    module = support.dev.load_pack("host.model.matmul")
    module._tried.cache_clear()
    yield module
    module._tried.cache_clear()


@pytest.fixture
def known(comfy):
    return support.dev.load_pack("loaders.formats.base.registry").FORMATS


@pytest.fixture
def takes(matmul, monkeypatch):
    """A device on which a product as stored takes so many times as long as in floats; the list of what was timed."""

    def device(ratio, float_seconds=1.0):
        timed = []

        def seconds(product, repeats=2):
            timed.append(tuple(product().shape))
            return float_seconds * (ratio if product.__name__ == "packed" else 1)

        monkeypatch.setattr(matmul, "seconds", seconds)
        return timed

    return device


def test_probe_names_what_a_device_lacks(matmul, known, takes):
    takes(0.5)
    assert matmul.fast_matmul(known["int8_tensorwise"], CPU) is None
    assert "compute capability 8.9" in matmul.fast_matmul(known["float8_e4m3fn"], CPU)
    assert "compute capability 10" in matmul.fast_matmul(known["nvfp4"], CPU)
    assert matmul.fast_matmul(known["Q8_0"], CPU) == "no device multiplies it as it is"


@pytest.mark.parametrize("name", ["int8_tensorwise", "convrot_w4a4"])
def test_slower_than_a_float_product_is_not_used(matmul, known, takes, name):
    takes(58.25)
    assert matmul.fast_matmul(known[name], CPU) == "takes 58.2 times as long on this device as float32"
    assert matmul.lacking(known[name], CPU) is None  # it could
    assert matmul.slowness(known["nvfp4"], CPU) is None  # it could not, which is another reason


def test_device_is_timed_once(matmul, known, takes):
    timed = takes(0.9)
    for _ in range(3):
        assert matmul.fast_matmul(known["int8_tensorwise"], CPU) is None
    assert timed == [(1024, 256)] * 3  # a first call, one in floats, one as stored


def test_product_grows_until_it_can_be_timed(matmul, known, takes, monkeypatch):
    monkeypatch.setattr(matmul, "WIDTHS", (256, 512))
    assert matmul.LONG_ENOUGH == 1e-3
    timed = takes(0.9, float_seconds=1e-4)
    assert matmul.fast_matmul(known["int8_tensorwise"], CPU) is None
    assert timed == [(1024, 256), (1024, 256), (2048, 512), (2048, 512)]


def test_lack_of_memory_is_not_remembered(matmul, known, takes, monkeypatch):
    takes(0.5)

    def none(product):
        raise torch.OutOfMemoryError("none left")

    with monkeypatch.context() as m:
        m.setattr(matmul, "seconds", none)
        assert "out of memory" in matmul.fast_matmul(known["int8_tensorwise"], CPU)
    assert matmul.fast_matmul(known["int8_tensorwise"], CPU) is None


def test_real_products_are_timed(matmul, known):
    found = matmul.fast_matmul(known["int8_tensorwise"], CPU)  # of this machine, whichever it is
    assert found is None or "times as long on this device as float32" in found
