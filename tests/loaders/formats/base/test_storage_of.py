import pytest
import support
import torch

read = support.dev.load_pack("loaders.files.read")
registry = support.dev.load_pack("loaders.formats.base.registry")

E4M3, U8, I8, F32, F64 = torch.float8_e4m3fn, torch.uint8, torch.int8, torch.float32, torch.float64


def of(weight, scales=None, marker=None, old=None):
    info = {role: read.TensorInfo(*s) for role, s in (scales or {}).items()}
    return registry.storage_of("f: tensor x.weight", read.TensorInfo(*weight), info, marker, old)


ROTATED = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}


@pytest.mark.parametrize(
    "weight, scales, marker, format, settings",
    [
        ((torch.bfloat16, (8, 4)), {"weight_scale": (F32, (1,))}, None, None, {}),
        ((E4M3, (256, 128)), {}, None, "float8_e4m3fn", {"unscaled": True}),
        ((E4M3, (256, 128)), {"weight_scale": (F32, ())}, None, "float8_e4m3fn", {}),
        ((E4M3, (8, 4)), {"weight_scale": (F64, ()), "input_scale": (F64, ())}, None, "float8_e4m3fn", {}),
        ((E4M3, (256, 128)), {"weight_scale": (F32, (256,))}, None, "float8_e4m3fn_rowwise", {}),
        ((E4M3, (256, 128)), {"weight_scale": (F32, (4, 2))}, None, "float8_e4m3fn_blockwise", {}),
        ((E4M3, (256, 128)), {"weight_scale": (F32, (256, 2, 1))}, None, "float8_e4m3fn_blockwise", {}),
        ((E4M3, (256, 128)), {"weight_scale": (U8, (256, 4))}, None, "mxfp8", {}),
        ((U8, (256, 128)), {"weight_scale": (F32, ())}, {"format": "float8_e4m3fn"}, "float8_e4m3fn", {}),
        ((torch.float8_e5m2, (8, 4)), {"weight_scale": (F32, (1,))}, None, "float8_e5m2", {}),
        ((I8, (256, 128)), {"weight_scale": (F32, (256, 1))}, {"format": "int8_tensorwise"}, "int8_tensorwise", {}),
        ((I8, (256, 100)), {"weight_scale": (F32, ())}, None, "int8_tensorwise", {}),
        ((I8, (256, 128)), {"weight_scale": (F32, (1, 1))}, None, "int8_tensorwise", {}),
        ((I8, (256, 128)), {"weight_scale": (F32, (2, 1))}, None, "int8_blockwise", {}),
        (
            (I8, (256, 128)),
            {"weight_scale": (F32, (256, 1))},
            ROTATED,
            "int8_tensorwise",
            {"convrot": True, "convrot_groupsize": 64},
        ),
        (
            (I8, (256, 128)),
            {"weight_scale": (F32, (256, 1))},
            {"format": "int8_tensorwise", "params": {"convrot": True}, "convrot_groupsize": 64},
            "int8_tensorwise",
            {"convrot": True, "convrot_groupsize": 64},
        ),
        *(  # ComfyUI-INT8-Fast names no format; what it calls QuaRot since it saves is ConvRot's rotation
            ((I8, (256, 512)), {"weight_scale": (F32, scale)}, marker, "int8_tensorwise", settings)
            for scale, marker, settings in (
                ((256, 1), {"quarot": True}, {"convrot": True, "convrot_groupsize": 256}),
                ((256, 1), {"quarot": True, "quarot_groupsize": 64}, {"convrot": True, "convrot_groupsize": 64}),
                ((256, 1), {"quarot": False}, {}),
                ((), {"quarot": False}, {}),
                ((256, 1), {"convrot": False}, {}),
            )
        ),
        ((U8, (256, 64)), {"weight_scale": (E4M3, (256, 8)), "weight_scale_2": (F32, ())}, None, "nvfp4", {}),
        (("Q4_K", (256, 512)), {}, None, "Q4_K", {}),
        ((U8, (256, 136)), {}, {"format": "gguf_q8_0"}, "Q8_0", {}),
    ],
)
def test_storage_is_told_from_types_shapes_and_markers(weight, scales, marker, format, settings):
    found = of(weight, scales, marker)
    assert (found.format, dict(found.settings)) == (format, settings)
    rows = weight[1][0]
    columns = {"nvfp4": 128, "Q8_0": 128}.get(format, weight[1][1])
    assert found.shape == (rows, columns)


@pytest.mark.parametrize("values, full", [(2, True), (0, False)])
def test_old_marker_of_two_values_asks_for_full_precision(values, full):
    found = of((E4M3, (8, 4)), {"weight_scale": (F32, (1,))}, old=read.TensorInfo(E4M3, (values,)))
    assert found.settings.get("full_precision_matrix_mult", False) is full


@pytest.mark.parametrize(
    "weight, scales, marker, told",
    [
        (("IQ2_S", (8, 256)), {}, None, "stored as IQ2_S, which is not supported .*Q8_0.*Take a file in one of those"),
        ((torch.float64, (8, 4)), {}, None, "stored as float64 of shape .8, 4., which no known format"),
        ((U8, (8, 4)), {}, None, "stored as uint8 of shape .8, 4., which no known format"),
        ((I8, (8, 4)), {}, None, "stored as int8 but has no weight_scale"),
        (
            (I8, (8, 4)),
            {"weight_scale": (F32, (8, 1))},
            None,
            "stored as int8, and no comfy_quant marker says whether its rows are rotated. Take a file with",
        ),
        ((I8, (8, 256)), {"weight_scale": (F32, ())}, {"quarot": True}, "scales of shape .., float32, which fit no"),
        ((I8, (8, 256)), {"weight_scale": (F32, (2, 1))}, {"quarot": True}, "scales of shape .2, 1., float32, which"),
        (
            (I8, (8, 100)),
            {"weight_scale": (F32, (8, 1))},
            {"quarot": True},
            "100 inputs, which its rotation in groups of 256",
        ),
        ((I8, (8, 256)), {"weight_scale": (F32, (8, 1))}, {"quarot": "x"}, "has quarot 'x' in its marker"),
        ((I8, (8, 100)), {"weight_scale": (F32, (8, 1))}, ROTATED, "100 inputs, which its rotation in groups of 64"),
        ((E4M3, (256, 128)), {"weight_scale": (F32, (3, 2))}, None, "scales of shape .3, 2., float32, which fit no"),
        ((E4M3, (256, 128)), {"weight_scale": (U8, (9, 9))}, None, "scales of shape .9, 9., uint8, which fit no"),
        ((E4M3, (256, 128)), {}, {"format": "mxfp8"}, "marked as .?mxfp8.? but has no weight_scale"),
        ((U8, (256, 64)), {"weight_scale_2": (F32, ())}, None, "stored as nvfp4 but has no weight_scale beside it"),
        ((U8, (256, 100)), {}, {"format": "gguf_q8_0"}, "marked as GGUF Q8_0 but has shape .256, 100."),
        (
            (U8, (256, 100)),
            {},
            {"format": "svdq"},
            "marked as .?svdq.?, which is not supported .convrot_w4a4, float8_e4m3fn",
        ),
    ],
)
def test_storage_that_fits_nothing_is_told(weight, scales, marker, told):
    with pytest.raises(ValueError, match=f"^f: tensor x.weight.*{told}"):
        of(weight, scales, marker)
