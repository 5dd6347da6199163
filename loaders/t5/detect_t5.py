"""DATA and rules: T5 encoders in files, under Hugging Face's names or llama.cpp's. Pure: no weight is read.

Every size is read off a shape. Names without a prefix are Hugging Face's, which the host's encoder has too.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Mapping

from ..checkpoint.check_shapes import NUM_NAMED, Words, check_shapes
from ..checkpoint.foreign import refuse_foreign
from ..checkpoint.keys import LORA, OLD_MARKER, OLD_MARKERS, other_model
from ..checkpoint.weight_parts import Collected, Names, collect
from ..files.error_text import short
from ..files.read import Header
from .sizes import EMBEDDING, EMBEDDING_COPY, NUM_BUCKETS, PUBLISHED_LAYERS, RELATIVE_BIAS, T5Config, expected_shapes

VOCABULARY = range(32_100, 32_129)  # T5's tokenizer has 32,100 words, its published embeddings 28 spare rows

# What stands before a match in a name is a prefix; the prefix with the most matches is the encoder's.
SIGNATURES = {
    "Hugging Face": re.compile(r"(|.*\.)encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight"),
    "llama.cpp": re.compile(r"(|.*\.)enc\.blk\.\d+\.attn_q\.weight"),
}
LLAMA_CPP = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
LLAMA_CPP_BLOCK = {
    **{f"attn_{x}": f"layer.0.SelfAttention.{x}" for x in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",  # `wi` where there is no gate
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}
LLAMA_CPP_NAME = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
BLOCK = re.compile(r"encoder\.block\.(\d+)\.")

# Of a whole T5, or of the host's and other programs' files: not part of the encoder.
DROPPED = ("decoder.", "dec.", "lm_head.", "output.weight", "logit_scale", "spiece_model")
PARENT_DROPPED = ("logit_scale",)  # beside `transformer.` in files that the host has saved

# Part of a name -> what the file is, if it is neither T5 nor a LoRA. The first that is found is reported.
NO_T5 = (
    ("distilled_guidance_layer.", "a Chroma model; it belongs in models/diffusion_models"),
    ("double_blocks.0.", "FLUX; it belongs in models/diffusion_models"),
    ("single_transformer_blocks.0.", "FLUX in diffusers' layout; it belongs in models/diffusion_models"),
)
NEEDED = "Chroma needs T5-XXL v1.1 (t5xxl) or flan-T5-xxl"
T5 = Words(f"not part of T5's encoder. {NEEDED}, unmodified", "The file is damaged; download it again")


@dataclass(frozen=True, kw_only=True)
class T5Detection(Collected):
    """What a file holds; the fields are those of `checkpoint/detect_variant.Detection` where they mean the same.

    dropped: names in the file of tensors that no encoder has, such as a whole T5's decoder.
    others:  number of tensors under other prefixes, in an all-in-one file.
    """

    variant: str
    layout: str
    config: T5Config
    prefix: str
    dropped: tuple[str, ...]
    others: int


def detect_t5(header: Header) -> T5Detection:
    """Recognises a T5 encoder, alone, in a whole T5 or in an all-in-one file.

    raises: ValueError that names the file, what was found and what to do: another model, another vocabulary, a missing,
            misshapen or unknown tensor, or a storage type that is not supported.
    """
    layout, prefix = _layout_of(header)
    by_name, dropped, others = _names(header, layout, prefix)
    old_marker = next(
        (info for name, info in header.tensors.items() if _is_old_marker(name, prefix, (OLD_MARKER,))), None
    )
    collected = collect(header, Names(header, by_name, prefix), old_marker)
    config = _config(header, collected.shapes)
    check_shapes(header.name, expected_shapes(config), collected, T5)
    return T5Detection(
        **vars(collected),
        variant="T5 v1.1" if config.gated else "T5",
        layout=layout,
        config=config,
        prefix=prefix,
        dropped=dropped,
        others=others,
    )


def llama_cpp_name(name: str, gated: bool) -> str:
    """Hugging Face's name of a tensor from llama.cpp's; unchanged where no rule knows it."""
    found = LLAMA_CPP_NAME.fullmatch(name)
    if found is None:
        return LLAMA_CPP.get(name.removesuffix(".weight"), name.removesuffix(".weight")) + ".weight"
    block, layer = found.groups()
    if layer not in LLAMA_CPP_BLOCK:
        return name
    theirs = LLAMA_CPP_BLOCK[layer]
    if layer == "ffn_up" and not gated:
        theirs = theirs.removesuffix("_1")
    return f"encoder.block.{block}.{theirs}.weight"


def _layout_of(header: Header) -> tuple[str, str]:
    """(layout, prefix)."""
    for layout, signature in SIGNATURES.items():
        found = Counter(match.group(1) for name in header.tensors if (match := signature.fullmatch(name)))
        if found:
            return layout, found.most_common(1)[0][0]
    refuse_foreign(header)
    what = other_model(header.tensors)
    if what != LORA:
        what = next((own for part, own in NO_T5 if any(part in name for name in header.tensors)), what)
    sample = ", ".join(list(header.tensors)[:3]) or "no tensors"
    architecture = header.metadata.get("general.architecture")
    told = f"it looks like {what}" if what else f"it begins with {sample}"
    told += f", its architecture is {short(architecture)}" if isinstance(architecture, str) else ""
    raise ValueError(f"{header.name}: not a T5 text encoder; {told}. {NEEDED}")


def _names(header: Header, layout: str, prefix: str) -> tuple[dict[str, str], tuple[str, ...], int]:
    """(name -> name in the file of the encoder's tensors, names that are left out, number of other models' tensors)."""
    gated = any(name.startswith(f"{prefix}enc.") and ".ffn_gate." in name for name in header.tensors)
    parent = prefix.removesuffix("transformer.")
    names: dict[str, str] = {}
    dropped: list[str] = []
    others = 0
    for file_name in header.tensors:
        if _is_old_marker(file_name, prefix):
            continue
        if not file_name.startswith(prefix):
            if file_name.startswith(parent) and file_name.removeprefix(parent) in PARENT_DROPPED:
                dropped.append(file_name)
            else:
                others += 1
            continue
        name = file_name.removeprefix(prefix)
        if name.startswith(DROPPED):
            dropped.append(file_name)
            continue
        names[llama_cpp_name(name, gated) if layout == "llama.cpp" else name] = file_name
    copies = [n for n in names if n.startswith(EMBEDDING_COPY.removesuffix("weight"))]  # and its scales and marker
    if EMBEDDING in names:
        dropped += [names.pop(n) for n in copies]
    else:
        for name in copies:
            names["shared." + name.removeprefix("encoder.embed_tokens.")] = names.pop(name)
    return names, tuple(dropped), others


def _is_old_marker(file_name: str, prefix: str, markers: tuple[str, ...] = OLD_MARKERS) -> bool:
    stem, _, last = file_name.rpartition(".")
    return last in markers and f"{prefix}.".startswith(stem)


def _config(header: Header, shapes: Mapping[str, tuple[int, ...]]) -> T5Config:
    def shape(name: str) -> tuple[int, int]:
        if name not in shapes:
            raise ValueError(f"{header.name}: tensor {name} is missing. The file is incomplete; download it again")
        found = shapes[name]
        if len(found) != 2 or 0 in found:
            raise ValueError(f"{header.name}: tensor {name} has shape {found}, expected 2 sizes. The file is damaged")
        return found

    vocab_size, width = shape(EMBEDDING)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    counted = {"embedding": vocab_size, **({"tokenizer": len(tokens)} if isinstance(tokens, list) else {})}
    for part, count in counted.items():
        if count not in VOCABULARY:
            raise ValueError(
                f"{header.name}: its {part} has {count:,} words, T5's has {VOCABULARY.start:,} to "
                f"{VOCABULARY.stop - 1:,}; it is another kind of T5 (UMT5, mT5 and ByT5 have other words). {NEEDED}"
            )
    blocks = {int(found.group(1)) for name in shapes if (found := BLOCK.match(name))}
    num_layers = max(blocks) + 1
    if len(blocks) != num_layers:
        lost = islice((f"encoder.block.{i}" for i in range(num_layers) if i not in blocks), NUM_NAMED)
        raise ValueError(f"{header.name}: {', '.join(lost)} missing. The file is incomplete; download it again")
    announced = header.metadata.get(f"{header.metadata.get('general.architecture')}.block_count", num_layers)
    if not isinstance(announced, int) or announced != num_layers:
        raise ValueError(
            f"{header.name}: holds {num_layers} layers, its header announces {short(announced)}. "
            "The file is incomplete; download it again"
        )
    gated = "encoder.block.0.layer.1.DenseReluDense.wi.weight" not in shapes
    published = PUBLISHED_LAYERS.get((width, gated), num_layers)
    if num_layers < published:
        raise ValueError(
            f"{header.name}: holds {num_layers} of the {published} layers that a T5 of width {width:,} has. "
            "The file is incomplete; download it again"
        )
    buckets, num_heads = shape(RELATIVE_BIAS)
    inner = shape("encoder.block.0.layer.0.SelfAttention.q.weight")[0]
    if buckets != NUM_BUCKETS or inner % num_heads:
        raise ValueError(
            f"{header.name}: {inner} rows of queries, {num_heads} heads and {buckets} buckets of positions do not fit, "
            f"expected {NUM_BUCKETS} buckets and a multiple of the heads. The file is damaged"
        )
    return T5Config(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=inner // num_heads,
        mlp_dim=shape("encoder.block.0.layer.1.DenseReluDense.wo.weight")[1],
        gated=gated,
    )
