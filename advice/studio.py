"""Chroma Studio's graph: a mode and the node's values -> the nodes that it stands for. Pure.

The one description of it: the server runs it in the node's place (`nodes/studio.py`), and the page opens it as nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping

from ..constants import AS_TRAINED, CUSTOM
from .presets import CHOICES

STUDIO_NODE = "ChromaStudio"
Link = list[Any]  # [node's id, slot of its output]

# Modes and numbers of LoRAs are saved in workflows: add, never rename.
TEXT, PICTURE, INPAINT, OUTPAINT, ENLARGE, EDIT = (
    "text to image",
    "image to image",
    "inpaint",
    "outpaint",
    "enlarge",
    "edit",
)
NO_LORAS, MAX_LORAS = "none", 3
OWN_APPROXIMATOR = "from the model file"
MULTIPLE = 16  # pixels: 8 of the VAE, 2 of the patch
PIXEL_SPACE = "pixel_space"  # the host's VAE of models that paint pixels, such as Radiance
GROUPS = ("mode", "quality", "loras")  # choices that have inputs of their own
TITLES = {"prompt": "Prompt", "negative": "Negative prompt"}
SETTINGS = {  # of Chroma KSampler, in whose place those of the checkpoint stand unless quality is custom
    "steps": 26,
    "cfg": 3.5,
    "sampler": "res_multistep",
    "schedule": "beta",
    "shift": AS_TRAINED,
}


@dataclass(frozen=True)
class StudioGraph:
    """nodes: in the API format, sources first. output: the finished picture."""

    nodes: dict[str, dict[str, Any]]
    output: Link


class Draft:
    """A graph while it is put together: what all modes share, and `add`."""

    def __init__(self, values: Mapping[str, Any], prefix: str):
        self.values, self.prefix = values, prefix
        self.nodes: dict[str, dict[str, Any]] = {}
        self.model, self.clip, self.vae = self._model(), self._clip(), self._vae()
        self.positive, self.negative = self._text("prompt"), self._text("negative")

    def add(self, name: str, kind: str, title: str = "", **inputs: Any) -> Callable[..., Link]:
        """Adds a node. returns: gives the link to one of its outputs, the first if none is named."""
        node = {"class_type": kind, "inputs": inputs}
        self.nodes[self.prefix + name] = {**node, "_meta": {"title": title}} if title else node
        return lambda slot=0: [self.prefix + name, slot]

    def _model(self) -> Link:
        model = self.values.get("model")
        if model is None:
            file, other = self._file("unet_name", "model"), self.values.get("approximator") or OWN_APPROXIMATOR
            loader = {"unet_name": file, "quant_mode": "auto", "approximator": other}
            model = self.add("model", "ChromaDiffusionLoader", **loader)()
        loras = chosen(self.values, "loras", [NO_LORAS, *map(str, range(1, MAX_LORAS + 1))], NO_LORAS)
        for i in range(1, 1 + (0 if loras["loras"] == NO_LORAS else int(loras["loras"]))):
            lora = {"lora_name": loras.get(f"lora_{i}"), "strength_model": loras.get(f"strength_{i}", 1.0)}
            model = self.add(f"lora_{i}", "ChromaLoraLoader", model=model, **lora)()
        return model

    def _clip(self) -> Link:
        return (
            self.values.get("clip") or self.add("clip", "ChromaCLIPLoader", clip_name=self._file("clip_name", "clip"))()
        )

    def _vae(self) -> Link:
        return self.values.get("vae") or self.add("vae", "VAELoader", vae_name=self._file("vae_name", "vae"))()

    def _file(self, name: str, instead: str) -> str:
        file = self.values.get(name)
        if file in (None, ""):
            raise ValueError(f"{name} names no file. Choose one, or connect {instead}")
        return file

    def _text(self, name: str) -> Link:
        role = {"used_as": "negative"} if name == "negative" else {}
        text = {"clip": self.clip, "text": self.values.get(name, ""), "mode": "exact", **role}
        return self.add(name, "ChromaTextEncode", TITLES[name], **text)()

    def sample(self, latent: Link, denoise: Any = 1.0, name: str = "sampler", title: str = "", **more: Any) -> Link:
        """Paints. more: other links than the graph's own, by input."""
        quality = chosen(self.values, "quality", [*CHOICES, CUSTOM], CUSTOM)
        inputs = {"model": self.model, "positive": self.positive, "negative": self.negative, **more, "latent": latent}
        own = {key: quality.get(key, value) for key, value in SETTINGS.items()}
        inputs |= {"seed": self.values.get("seed", 0), **own, "denoise": denoise, "skip_first_steps": 0}
        return self.add(name, "ChromaKSampler", title, **inputs, quality=quality["quality"])()

    def empty(self, width: Any, height: Any) -> Link:
        pixels = self.values.get("vae") is None and self.values.get("vae_name") == PIXEL_SPACE
        kind = "EmptyChromaRadianceLatentImage" if pixels else "EmptySD3LatentImage"
        return self.add("size", kind, "Size", width=width, height=height, batch_size=1)()

    def encode(self, pixels: Link, name: str = "encode") -> Link:
        return self.add(name, "VAEEncode", pixels=pixels, vae=self.vae)()

    def decode(self, samples: Link, name: str = "decode") -> Link:
        return self.add(name, "VAEDecode", samples=samples, vae=self.vae)()

    def at_area(self, image: Link, megapixels: Any) -> Link:
        """The picture in its own shape at an area; as it is for 0."""
        if megapixels == 0:
            return image
        mode = {"mode": "by area", "mode.megapixels": megapixels, "mode.multiple": MULTIPLE}
        return self.add("scale", "ChromaKontextSize", "Scale the picture", image=image, **mode)()

    def fitted(self, name: str, source: Link, scale_method: str) -> Link:
        """A picture or mask whose sides are whole patches; others VAE Encode would cut, and the mask would no longer fit."""
        resize = {"resize_type": "scale to multiple", "resize_type.multiple": MULTIPLE, "scale_method": scale_method}
        return self.add(name, "ResizeImageMaskNode", "To multiples of 16", input=source, **resize)()

    def under_mask(self, pixels: Link, mask: Link, denoise: Any) -> Link:
        """What is under a mask, made anew."""
        latent = self.add("mask", "SetLatentNoiseMask", samples=self.encode(pixels), mask=mask)()
        model = self.add("soft_mask", "DifferentialDiffusion", model=self.model, strength=1.0)()
        return self.decode(self.sample(latent, denoise, model=model))


# --- modes: each gives the link to the finished picture --------------------------------------------------------------


def _text_to_image(draft: Draft, mode: Mapping[str, Any]) -> Link:
    return draft.decode(draft.sample(draft.empty(mode.get("width", 1024), mode.get("height", 1024))))


def _image_to_image(draft: Draft, mode: Mapping[str, Any]) -> Link:
    pixels = draft.at_area(linked(mode, "image"), mode.get("megapixels", 1.0))
    return draft.decode(draft.sample(draft.encode(pixels), mode.get("denoise", 0.6)))


def _inpaint(draft: Draft, mode: Mapping[str, Any]) -> Link:
    size = {"context": mode.get("context", 1.5), "megapixels": mode.get("megapixels", 1.0)}
    cut = draft.add(
        "crop", "ChromaInpaintCrop", image=linked(mode, "image"), mask=linked(mode, "mask", "a mask"), **size
    )
    painted = draft.under_mask(cut(0), cut(1), mode.get("denoise", 0.8))
    return draft.add("stitch", "ChromaInpaintStitch", image=painted, cutout=cut(2), feather=16)()


def _outpaint(draft: Draft, mode: Mapping[str, Any]) -> Link:
    sides = {side: mode.get(side, 0) for side in ("left", "top", "right", "bottom")}
    if not any(is_linked(side) or side for side in sides.values()):
        raise ValueError("left, top, right and bottom are 0, so nothing is added. Set at least one of them")
    megapixels = mode.get("megapixels", 1.0)
    pixels = draft.at_area(linked(mode, "image"), megapixels)
    pad = draft.add("pad", "ImagePadForOutpaint", image=pixels, **sides, feathering=mode.get("feathering", 40))
    padded, mask = pad(0), pad(1)
    if megapixels == 0 or any(is_linked(side) or side % MULTIPLE for side in sides.values()):
        padded, mask = draft.fitted("fit", padded, "lanczos"), draft.fitted("fit_mask", mask, "bilinear")
    painted = draft.under_mask(padded, mask, 1.0)
    kept = {"destination": padded, "source": painted, "x": 0, "y": 0, "resize_source": False, "mask": mask}
    return draft.add("keep", "ImageCompositeMasked", "Keep what was there", **kept)()


def _enlarge(draft: Draft, mode: Mapping[str, Any]) -> Link:
    first = mode.get("image")
    if first is None:
        latent = draft.empty(mode.get("width", 768), mode.get("height", 768))
        painted = draft.sample(latent, 1.0, "first", "First pass: composition")
        first = draft.decode(painted, "first_decode")
    factor = {"upscale_method": "lanczos", "scale_by": mode.get("factor", 1.5)}
    larger = draft.add("enlarge", "ImageScaleBy", image=first, **factor)()
    painted = draft.sample(draft.encode(larger), mode.get("denoise", 0.45), title="Second pass: detail")
    return draft.decode(painted)


def _edit(draft: Draft, mode: Mapping[str, Any]) -> Link:
    area = mode.get("megapixels", 0.0)
    size = (
        {"mode": "by area", "mode.megapixels": area, "mode.multiple": MULTIPLE} if area else {"mode": "Kontext's sizes"}
    )
    picture = draft.add("scale", "ChromaKontextSize", image=linked(mode, "image"), **size)
    reference = draft.encode(picture(0))

    def with_reference(name: str, conditioning: Link) -> Link:
        return draft.add(name, "ReferenceLatent", conditioning=conditioning, latent=reference)()

    positive = with_reference("reference", draft.positive)
    if guidance := mode.get("guidance", 2.5):
        positive = draft.add("guidance", "FluxGuidance", conditioning=positive, guidance=guidance)()
    both = {"positive": positive, "negative": with_reference("negative_reference", draft.negative)}
    return draft.decode(draft.sample(draft.empty(picture(1), picture(2)), **both))


MODES: Mapping[str, Callable[[Draft, Mapping[str, Any]], Link]] = {
    TEXT: _text_to_image,
    PICTURE: _image_to_image,
    INPAINT: _inpaint,
    OUTPAINT: _outpaint,
    ENLARGE: _enlarge,
    EDIT: _edit,
}


# --- the node's values -----------------------------------------------------------------------------------------------


def studio_graph(values: Mapping[str, Any], prefix: str = "") -> StudioGraph:
    """The nodes for Chroma Studio's values.

    values: by the names of its inputs, those of a choice within it: {"mode": {"mode": "inpaint", "image": link, ...}, ...}.
            A link [node's id, slot], or None for one, may stand for any that does not decide which nodes there are.
    prefix: of the nodes' ids.
    raises: ValueError in one sentence for a choice that is not known, or an input that is missing.
    """
    mode = chosen(values, "mode", MODES, TEXT)
    draft = Draft(values, prefix)
    return StudioGraph(draft.nodes, MODES[mode["mode"]](draft, mode))


def grouped(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's inputs in the API format, {"mode": "edit", "mode.image": link}, as `studio_graph` takes them."""
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        group, dot, part = name.partition(".")
        if dot:
            out.setdefault(group, {})[part] = value
        elif name in GROUPS:
            out.setdefault(name, {})[name] = value
        else:
            out[name] = value
    return out


def all_opened(prompt: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A queued graph with every Chroma Studio in it opened, and whose each of the nodes is that have come in, by their ids.

    A Studio whose values do not go, which the run will tell, stays.
    """
    out, owners, outputs = dict(prompt), {}, {}
    for key, node in prompt.items():
        inputs = node.get("inputs") if isinstance(node, Mapping) and node.get("class_type") == STUDIO_NODE else None
        if not isinstance(inputs, Mapping):
            continue
        try:
            graph = studio_graph(grouped(inputs), f"{key}.")
        except (ValueError, TypeError):
            continue
        del out[key]
        out |= graph.nodes
        owners |= dict.fromkeys(graph.nodes, key)
        outputs[key] = graph.output

    def relinked(value: Any) -> Any:
        return (
            outputs.get(value[0], value) if isinstance(value, list) and value and isinstance(value[0], str) else value
        )

    for key, node in out.items() if outputs else ():
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping):
            out[key] = {**node, "inputs": {name: relinked(value) for name, value in node["inputs"].items()}}
    return out, owners


def own_values(fix: Iterable[tuple[str, Any]], inputs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """(input, value) of a node that has come in, as the Studio's own inputs; nothing where it has not all of them."""
    places = [
        (next((n for n in (f"quality.{name}", f"mode.{name}") if n in inputs), None), value) for name, value in fix
    ]
    return () if any(name is None for name, _ in places) else tuple(places)


def chosen(values: Mapping[str, Any], name: str, allowed: Any, default: str) -> dict[str, Any]:
    """A choice with its inputs. raises: ValueError for one that is not known."""
    found = values.get(name)
    found = dict(found) if isinstance(found, Mapping) else {name: found}
    if found.get(name) is None:
        found[name] = default
    if isinstance(found[name], list):
        raise ValueError(f"{name} is given by a link, so the nodes for it are not known. Choose it on the node")
    if found[name] not in allowed:
        raise ValueError(f"{name} is {found[name]!r}; it must be one of {', '.join(allowed)}")
    return found


def is_linked(value: Any) -> bool:
    """None is a link too: the host hands it on where it asks before the run."""
    return value is None or isinstance(value, list)


def linked(mode: Mapping[str, Any], name: str, what: str = "a picture") -> Link:
    """raises: ValueError if nothing is connected."""
    if mode.get(name) is None:
        raise ValueError(f"{mode['mode']} needs {what}, and nothing is connected to {name}. Connect Load Image")
    return mode[name]
