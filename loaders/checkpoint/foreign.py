"""DATA: files of quantisers that are not read here, told by what stands beside their weights. The first row that fits.

Sources: what the named packages save (nunchaku, AutoGPTQ, AutoAWQ, sdnq, optimum-quanto, torchao, bitsandbytes, exllama,
hqq, compressed-tensors, DFloat11, mlx). A new one is a new row here and in the tests.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Iterable, Mapping, NamedTuple

from ..files.read import Header
from ..formats.base.format import FLOAT_DTYPES

PACKED = "packed weight"  # a `weight` that is not of 16 or 32 bits


class Foreign(NamedTuple):
    """what: for people. parts: last parts of names that stand beside each other."""

    what: str
    parts: tuple[str, ...]


NF4 = "nf4 or fp4 of bitsandbytes"
BITSANDBYTES_4 = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4")
FOREIGN = (
    *(Foreign(NF4, (part,)) for part in BITSANDBYTES_4),
    Foreign("8 bits of bitsandbytes", ("SCB",)),
    Foreign("SVDQuant of Nunchaku", ("qweight", "wscales")),
    Foreign("SVDQuant of Nunchaku", ("qweight", "proj_down")),
    Foreign("AWQ", ("qweight", "scaled_zeros")),
    Foreign("GPTQ", ("qweight", "g_idx")),
    Foreign("AWQ", ("qweight", "qzeros")),
    Foreign("GPTQ or AWQ", ("qweight",)),
    Foreign("SDNQ", ("svd_up", "svd_down")),
    Foreign("SDNQ", (PACKED, "scale")),
    Foreign("MLX", (PACKED, "scales")),
    Foreign("quanto", ("_data", "_scale")),
    Foreign("torchao", ("_weight_qdata",)),
    Foreign("torchao", ("weight:_data",)),
    Foreign("EXL2", ("q_weight",)),
    Foreign("EXL3", ("trellis",)),
    Foreign("HQQ", ("W_q",)),
    Foreign("compressed-tensors", ("weight_packed",)),
    Foreign("DFloat11", ("encoded_exponent",)),
)
INSTEAD = "Take a GGUF, fp8 or 16-bit version of the model"


def foreign(header: Header, names: Iterable[str]) -> str | None:
    """What stored the tensors of these names in the file, and one of them; None where it is no quantiser of the table."""
    beside: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        stem, _, last = name.rpartition(".")
        beside[stem][last] = name
        if last == "weight" and header.tensors[name].dtype not in FLOAT_DTYPES:
            beside[stem][PACKED] = name
    for what, parts in FOREIGN:
        for found in beside.values():
            if found.keys() >= set(parts):
                return f"{what} ({found[parts[0]]})"
    return None


def refuse_foreign(header: Header, names: Mapping[str, str] | None = None) -> None:
    """Raises ValueError for a file of another quantiser, which is sound and needs no download.

    names: name without prefix -> name in the file, of what shall be looked at; None for all.
    """
    what = foreign(header, header.tensors if names is None else names.values())
    if what is not None:
        raise ValueError(f"{header.name}: quantised by {what}, which is not supported. {INSTEAD}")
