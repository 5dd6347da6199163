import json
import math
import re

import pytest
import support

read = support.dev.load_pack("loaders.lora.peft_alpha")


def said(**entries):
    return {read.METADATA: json.dumps({f"transformer.{k}": v for k, v in entries.items()})}


def peft(patterns, name, default):
    """PEFT's get_pattern_key."""
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


NAMES = ("proj_out", "single.0.proj_out", "single.10.proj_out", "double.0.attn.to_k", "double.0.attn.xto_k", "to_k")
PATTERNS = [
    {"proj_out": 2},
    {"^proj_out": 2},
    {"^proj_out$": 2, "proj_out": 3},
    {"single.0.proj_out": 2, "proj_out": 3},
    {"proj_out": 3, "single.0.proj_out": 2},  # the first counts
    {"0.proj_out": 2, "attn.to_k": 4},
    {"double\\.0\\.attn\\.to_k": 2, "^attn.to_k": 5},
    {"to_k$": 2.5},
    {"nothing": 1},
]


@pytest.mark.parametrize("patterns", PATTERNS)
def test_patterns_are_taken_as_peft_takes_them(patterns):
    alpha = read.metadata_alpha(said(lora_alpha=8, alpha_pattern=patterns))
    for name in NAMES:
        assert alpha(name, 4) == alpha(f"transformer.{name}", 4) == peft(patterns, name, 8)


def test_rank_stabilised_alpha_is_scaled_by_the_root_of_the_rank():
    alpha = read.metadata_alpha(said(lora_alpha=8, use_rslora=True))
    assert alpha("transformer.proj_out", 16) / 16 == pytest.approx(8 / math.sqrt(16))


def test_a_file_that_says_nothing_has_no_alpha():
    assert read.metadata_alpha({})("proj_out", 4) is None


@pytest.mark.parametrize("pattern", [r"(a+)+$", r".*to_q", r"to_[qk]", "a|b", r"\d+", "", "^", "a b", "x" * 300])
def test_what_is_no_layers_name_is_refused(pattern):
    with pytest.raises(ValueError, match="alpha_pattern .* a regular expression; only names .* Take a LoRA"):
        read.metadata_alpha(said(alpha_pattern={pattern: 1}))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"transformer.lora_alpha": [1]}',
        '{"transformer.lora_alpha": "x"}',
        '{"transformer.lora_alpha": NaN}',
        '{"transformer.lora_alpha": 1e999}',
        '{"transformer.lora_alpha": 1e38}',
        '{"transformer.lora_alpha": ' + "9" * 400 + "}",
        '{"transformer.lora_alpha": ' + "9" * 5000 + "}",
        '{"transformer.alpha_pattern": {"proj_out": null}}',
        '{"transformer.alpha_pattern": ["proj_out"]}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_damaged_metadata_is_told_in_one_line(text):
    with pytest.raises(
        ValueError, match="metadata lora_adapter_metadata is damaged .*Download the file again"
    ) as caught:
        read.metadata_alpha({read.METADATA: text})
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_hundred_thousand_patterns_and_layers_are_looked_up():
    """One for each is looked up, not each against each, which would be 10^10."""
    patterns = {f"block.{i}.proj_out": i for i in range(100_000)}
    alpha = read.metadata_alpha(said(alpha_pattern=patterns))
    assert all(alpha(name, 1) == value for name, value in patterns.items())
