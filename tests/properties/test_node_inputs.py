"""Any value at any input of any node: taken within the limits of its schema, or refused in one sentence that names it."""

import functools
import math

import pytest
import support
import torch
from node_inputs import chosen, inputs

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack


@functools.cache
def every_input():
    """(node, what is given to check_inputs for a value, name, input) of all inputs of all nodes that check theirs."""
    checks = load_pack("nodes.shared.checked_node")
    classes = [getattr(load_pack(f"nodes.{f.module}"), name) for f in load_pack("nodes").FEATURES for name in f.nodes]
    return [(node, *one) for node in classes if issubclass(node, checks.CheckedNode) for one in inputs(node)]


numbers = st.integers() | st.floats() | st.integers(-3, 3000) | st.floats(-10, 10)
texts = st.text(max_size=200)
plain = st.none() | st.booleans() | numbers | texts
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
tensors = st.lists(st.integers(0, 3), max_size=5).map(torch.zeros)


def near(one):
    """Values of its own kind, and those at its ends."""
    if one.get_io_type() in ("INT", "FLOAT"):
        return st.sampled_from([one.default, one.min, one.max]) | numbers
    return (
        st.sampled_from(list(one.options)) if getattr(one, "options", None) else st.just(getattr(one, "default", None))
    )


@pytest.fixture(scope="module")
def host(comfy):
    return comfy


@given(data=st.data())
def test_any_value_is_taken_within_its_limits_or_refused_in_a_sentence(host, data):
    node, placed, name, one = data.draw(st.sampled_from(every_input()))
    value = data.draw(near(one) | values | tensors)
    checks = load_pack("nodes.shared.checked_node")
    try:
        found = checks.check_inputs(node, {**chosen(node), **placed(value)})
    except ValueError as error:
        text = str(error)
        assert 0 < len(text) < 2000 and "\n" not in text
        assert name in text or name.rpartition(".")[2] in text
        return
    for part in name.split("."):
        found = found[part]
    kind = one.get_io_type()
    for value in found if node.define_schema().is_input_list else [found]:
        if kind in ("INT", "FLOAT"):
            assert type(value) is int if kind == "INT" else math.isfinite(value)
            assert (one.min is None or value >= one.min) and (one.max is None or value <= one.max)
        elif kind in ("COMBO", "STRING"):
            assert isinstance(value, str) or (value is None and one.optional)
