"""Files of quantisers that are not read here are told by name, whichever loader they are given to."""

import re

import pytest
import support
import torch

foreign = support.dev.load_pack("loaders.checkpoint.foreign")
detect = support.dev.load_pack("loaders.checkpoint.detect_variant")
t5 = support.dev.load_pack("loaders.t5.detect_t5")
read = support.dev.load_pack("loaders.files.read")

I8, I32, U8, F16 = torch.int8, torch.int32, torch.uint8, torch.float16
LAYERS = {
    "double_blocks.0.img_attn.qkv": detect.detect,
    "model.diffusion_model.double_blocks.0.img_attn.qkv": detect.detect,
    "transformer_blocks.0.attn.to_q": detect.detect,
    "encoder.block.0.layer.0.SelfAttention.q": t5.detect_t5,
}
# What packages save of one layer, written out.
FILES = {
    "nf4": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.absmax": U8, "weight.quant_map": F16}),
    "nf4 without the rest": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.quant_state.bitsandbytes__nf4": U8}),
    "fp4": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.quant_state.bitsandbytes__fp4": U8}),
    "nested": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.nested_absmax": F16}),
    "nested map": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.nested_quant_map": F16}),
    "map": ("nf4 or fp4 of bitsandbytes", {"weight": U8, "weight.quant_map": F16}),
    "int8": ("8 bits of bitsandbytes", {"weight": I8, "SCB": F16, "weight_format": U8}),
    "nunchaku": (
        "SVDQuant of Nunchaku",
        {"qweight": I8, "wscales": F16, "lora_down": F16, "lora_up": F16, "smooth": F16},
    ),
    "nunchaku today": ("SVDQuant of Nunchaku", {"qweight": I8, "wtscale": F16, "proj_down": F16, "proj_up": F16}),
    "nunchaku's T5": ("AWQ", {"qweight": I32, "scales": F16, "scaled_zeros": F16}),
    "GPTQ": ("GPTQ", {"qweight": I32, "qzeros": I32, "scales": F16, "g_idx": I32}),
    "AWQ": ("AWQ", {"qweight": I32, "qzeros": I32, "scales": F16}),
    "GPTQ of other names": ("GPTQ or AWQ", {"qweight": I32, "scales": F16}),
    "SDNQ": ("SDNQ", {"weight": U8, "scale": F16, "zero_point": F16}),
    "SDNQ, int8": ("SDNQ", {"weight": I8, "scale": F16}),
    "SDNQ with low rank": ("SDNQ", {"weight": F16, "svd_up": F16, "svd_down": F16}),
    "MLX": ("MLX", {"weight": "U32", "scales": F16, "biases": F16}),
    "quanto": ("quanto", {"weight._data": I8, "weight._scale": F16, "input_scale": F16}),
    "torchao": ("torchao", {"_weight_qdata": I8, "_weight_scale": F16}),
    "torchao of transformers": ("torchao", {"weight:_data": I8}),
    "EXL2": ("EXL2", {"q_weight": I32, "q_scale": I32, "q_invperm": I32}),
    "EXL3": ("EXL3", {"trellis": torch.int16, "suh": F16, "svh": F16}),
    "HQQ": ("HQQ", {"W_q": U8, "scale": F16, "zero": F16}),
    "compressed-tensors": ("compressed-tensors", {"weight_packed": I32, "weight_scale": F16, "weight_shape": I32}),
    "DFloat11": ("DFloat11", {"encoded_exponent": U8, "sign_mantissa": U8, "luts": U8, "gaps": U8}),
}


def header(tensors):
    return read.Header("m.safetensors", {n: read.TensorInfo(dtype, (4, 4)) for n, dtype in tensors.items()}, {})


def test_every_row_is_tried():
    found = {row.what for row in foreign.FOREIGN}
    assert found == {what for what, _ in FILES.values()}
    parts = {part for row in foreign.FOREIGN for part in row.parts}
    assert parts <= {name.rpartition(".")[2] for _, file in FILES.values() for name in file} | {foreign.PACKED}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("file", FILES)
def test_file_of_another_quantiser_is_told_by_name_and_not_as_damaged(layer, file):
    what, parts = FILES[file]
    with pytest.raises(ValueError) as told:
        LAYERS[layer](header({f"{layer}.{part}": dtype for part, dtype in parts.items()}))
    pattern = (
        rf"m.safetensors: quantised by {re.escape(what)} \({re.escape(layer)}\S+\), which is not supported. Take a GGUF"
    )
    assert re.match(pattern, str(told.value))


def test_what_stands_elsewhere_in_the_file_does_not_count():
    """An all-in-one file whose text encoder is nf4 holds a sound transformer."""
    with torch.device("meta"):
        weights = support.published(support.build(support.config()).state_dict(), prefix="model.diffusion_model.")
    tensors = {n: read.TensorInfo(t.dtype, tuple(t.shape)) for n, t in weights.items()}
    tensors["text_encoders.t5xxl.encoder.x.weight.absmax"] = read.TensorInfo(F16, (4,))
    assert detect.detect(read.Header("m.safetensors", tensors, {})).variant == "Chroma"


@pytest.mark.parametrize("parts", [{"weight": F16, "scale": F16}, {"scale": F16}, {"weight": I8, "weight_scale": F16}])
def test_norms_and_known_storages_are_none_of_them(parts):
    file = header({f"a.{part}": dtype for part, dtype in parts.items()})
    assert foreign.foreign(file, file.tensors) is None
