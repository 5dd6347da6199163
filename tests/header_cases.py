"""The kinds of files in tests/headers, as our reader gives their headers."""

from __future__ import annotations

import json

import headers
import support

read = support.dev.load_pack("loaders.files.read")
info = support.dev.load_pack("loaders.tensor_info")
KINDS = headers.kinds()


def header_of(kind):
    """name -> (dtype, shape), the metadata, and name -> JSON text of the *.comfy_quant tensors."""
    header = headers.load(kind)
    tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in header["tensors"].items()}
    return tensors, header["metadata"], header["markers"]


def expect_of(kind):
    return headers.load(kind)["expect"]


ACCEPTED = [kind for kind in KINDS if "error" not in expect_of(kind)]
REFUSED = [kind for kind in KINDS if kind not in ACCEPTED]


def read_header_of(kind):
    """The header as our reader gives it."""
    tensors, metadata, markers = header_of(kind)
    plain = {**info.DTYPES, **(read.GGML_PLAIN if headers.load(kind)["file"].endswith(".gguf") else {})}
    infos = {name: info.TensorInfo(plain.get(dtype, dtype), shape) for name, (dtype, shape) in tensors.items()}
    return read.Header(
        headers.load(kind)["file"], infos, metadata, {name: json.loads(text) for name, text in markers.items()}
    )


def flux(kind):
    return expect_of(kind)["variant"].startswith("FLUX")
