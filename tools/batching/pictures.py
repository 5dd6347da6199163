"""A picture as the server saved it -> a file of the batch: PNG, WebP or JPEG with ComfyUI's metadata and `parameters`."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Mapping

from .. import load_pack
from .workflow import Prompt

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
PNG_START, PNG_HEAD, PNG_END = b"\x89PNG\r\n\x1a\n", 33, b"IEND"  # 33: the start and the chunk IHDR
EXIF_MODEL, EXIF_MAKE, EXIF_COMMENT, EXIF_GROUP = 0x0110, 0x010F, 0x9286, 0x8769
EXIF_BYTES = 65_000  # of JPEG, which has 64 kB for it
PARTIAL = ".partial"
PLACES = load_pack("tables.places")


def save(path: Path, data: bytes, prompt: Prompt, workflow: Any, form: str, quality: int) -> None:
    """Writes a picture, whole or not at all.

    data: the server's PNG. workflow: the one that the page saved, with this picture's values; None if there is none.
    raises: ValueError if data is no picture; OSError if it cannot be written.
    """
    if not data.startswith(PNG_START) and form == "png":
        data = encoded(data, prompt, workflow, "png", quality)
    out = (
        with_text(data, "parameters", parameters(prompt))
        if form == "png"
        else encoded(data, prompt, workflow, form, quality)
    )
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(out)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def with_text(png: bytes, key: str, text: str) -> bytes:
    """A PNG with one more text (iTXt) behind its head; its pixels are not touched. raises: ValueError if it is cut short."""
    if not png.startswith(PNG_START) or png[-8:-4] != PNG_END:
        raise ValueError("the server's file is no whole PNG")
    body = b"iTXt" + key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:PNG_HEAD] + chunk + png[PNG_HEAD:]


def encoded(data: bytes, prompt: Prompt, workflow: Any, form: str, quality: int) -> bytes:
    """A picture in another format, with the metadata in EXIF, where ComfyUI's page looks for it."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the server's file is no picture ({error})") from error
    exif = image.getexif()
    exif[EXIF_MODEL] = f"prompt:{json.dumps(prompt)}"
    if workflow is not None:
        exif[EXIF_MAKE] = f"workflow:{json.dumps(workflow)}"
    comment = parameters(prompt)
    exif.get_ifd(EXIF_GROUP)[EXIF_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
    if form == "jpeg" and len(exif.tobytes()) > EXIF_BYTES and workflow is not None:
        del exif[EXIF_MAKE]  # the prompt alone opens in the page too
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if form != "png" else {}
    (image.convert("RGB") if form == "jpeg" else image).save(out, form.upper(), exif=exif, **options)
    return out.getvalue()


# --- the text that other programs read ---------------------------------------------------------------------------------

NAMES = (  # of the text -> inputs that may hold it
    ("Steps", ("steps",)),
    ("Sampler", ("sampler_name", "sampler")),
    ("Schedule type", ("scheduler", "schedule", "curve")),
    ("CFG scale", ("cfg", "cfg_scale")),
    ("Seed", ("seed", "noise_seed")),
    ("Size", ("width",)),
    ("Model", ("unet_name", "ckpt_name")),
)


def parameters(prompt: Prompt) -> str:
    """The prompt's settings in the common text of web user interfaces; what the graph computes is left out."""
    texts = {"positive": "", "negative": ""}
    for side in texts:
        for node in prompt.values():
            link = node["inputs"].get(side)
            if isinstance(link, list) and len(link) == 2 and not texts[side]:
                texts[side] = text_behind(prompt, str(link[0]), side)
    pairs = []
    for label, names in NAMES:
        value = first_value(prompt, names)
        if label == "Size" and value is not None:
            value = f"{value}x{first_value(prompt, ('height',))}"
        if label == "Model" and value is not None:
            value = Path(str(value).replace("\\", "/")).stem
        if value is not None:
            pairs.append(f"{label}: {value}")
    lines = [texts["positive"]] + [f"Negative prompt: {texts['negative']}"] * bool(texts["negative"])
    return "\n".join([*lines, ", ".join(pairs)])


def first_value(prompt: Prompt, names: tuple[str, ...]) -> Any:
    values = (node["inputs"].get(name) for name in names for node in prompt.values())
    return next((v for v in values if v is not None and not isinstance(v, (list, Mapping))), None)


def text_behind(prompt: Prompt, key: str, side: str) -> str:
    """The first text upstream of a node, through nodes that take conditioning of this side."""
    seen, ahead = set(), [key]
    while ahead:
        key = ahead.pop(0)
        if key in seen or key not in prompt:
            continue
        seen.add(key)
        inputs = prompt[key]["inputs"]
        for name in PLACES.TEXTS:
            if isinstance(inputs.get(name), str):
                return inputs[name]
        links = {name: value for name, value in inputs.items() if isinstance(value, list) and len(value) == 2}
        ahead += [str(value[0]) for name, value in links.items() if side not in links or name == side]
    return ""
