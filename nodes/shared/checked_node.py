"""Checks a node's inputs against its schema: the host checks typed values only, not those that come by a link.

Every node is a `CheckedNode`, except those that only report. An error names the input, what was found and what is
allowed.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from numbers import Real
from typing import Any, Callable, Iterable, Iterator, Mapping

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import is_link

from ...advice.studio import MAX_LORAS
from ...advice.user_changes import Settings
from ...loaders.files.error_text import MAX_NAME, short
from ...samplers.schedules import MAX_STEPS
from .report import running_graph

# Menus that are checked elsewhere, with remedies of their own: files, and quant_mode with its names of other packs.
OPEN_MENUS = (
    *("unet_name", "clip_name", "vae_name", "lora_name", "approximator", "lite_patch", "quant_mode"),
    *(f"lora_{i}" for i in range(1, MAX_LORAS + 1)),
)
MAX_WHOLE = 100 * MAX_STEPS  # limit of steps / denoise, the length of the whole schedule
MAX_LISTED = 20  # choices of a menu that an error names
NUM_SEEDS, MIN_TORCH_SEED = 1 << 64, -(1 << 63)
PLAIN = (bool, int, float, str, type(None))


class CheckedNode(io.ComfyNode):
    """A node whose `execute` runs only with inputs that its schema allows."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        own = vars(cls).get("execute")
        if own is not None and not hasattr(own.__func__, "__wrapped__"):  # the host clones wrapped nodes
            cls.execute = classmethod(checked(own.__func__))


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    parameters = dict(list(inspect.signature(execute).parameters.items())[1:])

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **given: Any) -> io.NodeOutput:
        given = check_inputs(cls, {**dict(zip(parameters, args)), **given})  # joins `choice.part` to its choice
        check_names(cls, given, parameters)
        return execute(cls, **given)

    return run


def check_names(
    node: type[io.ComfyNode], given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """raises: ValueError for an input that the node does not have, or a required one that is missing."""
    plain = {n: p for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    known = [one.id for one in (node.SCHEMA or node.define_schema()).inputs]
    unknown = next((name for name in given if name not in known and name not in plain), None)
    if unknown is not None:
        raise ValueError(f"{short(unknown)} is no input of this node (its inputs: {', '.join(known)}). Remove it")
    missing = next((n for n, p in plain.items() if p.default is p.empty and n not in given), None)
    if missing is not None:
        raise ValueError(f"{missing} is missing. Connect it or set it, or add the node anew")


def check_inputs(node: type[io.ComfyNode], given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values for `execute`: whole numbers as int, and each dynamic choice joined with its inputs.

    raises: ValueError in one sentence.
    """
    out = dict(given)
    schema = node.SCHEMA or node.define_schema()
    for one in schema.inputs:
        if isinstance(one, io.DynamicCombo.Input):
            choose(node, one, out)
        elif one.id in out and schema.is_input_list:  # of values without a menu; an optional one may be None
            values = out[one.id]
            out[one.id] = values and [check_value(one.id, one, value) for value in values]
        elif one.id in out:
            out[one.id] = check_value(one.id, one, out[one.id])
            check_menu(node, one.id, one, out[one.id])
    steps, denoise = out.get("steps"), out.get("denoise")
    if steps and denoise and steps / denoise > MAX_WHOLE:
        raise ValueError(
            f"denoise is {denoise:g}: {steps} steps would be the end of a schedule of {steps / denoise:.0e}; allowed "
            f"are {MAX_WHOLE}. Raise denoise, or set it to 0"
        )
    return out


def choose(node: type[io.ComfyNode], one: io.DynamicCombo.Input, out: dict[str, Any]) -> None:
    """Joins a dynamic choice and its inputs in `out`; the host does so for typed values, and drops unknown ones."""
    before = f"{one.id}."
    linked = {name.removeprefix(before): out.pop(name) for name in list(out) if name.startswith(before)}
    value = out.pop(one.id, None)
    values = {**value, **linked} if isinstance(value, Mapping) else {one.id: value, **linked}
    key = values.get(one.id)
    if key is None:
        asked = running_graph().get(str(node.hidden and node.hidden.unique_id), {})
        key = asked.get("inputs", {}).get(one.id)
    if key is None and one.optional:
        return
    options = {option.key: option.inputs for option in one.options}
    if not isinstance(key, str) or key not in options:
        raise ValueError(f"{one.id} is {found(key)}; it must be one of {listed(options, key)}")
    out[one.id] = {one.id: key}
    for sub in options[key]:
        if sub.id in values:
            out[one.id][sub.id] = check_value(before + sub.id, sub, values[sub.id])
            check_menu(node, before + sub.id, sub, out[one.id][sub.id])
        elif not isinstance(value, Mapping) and not sub.optional:  # chosen by a link: the page has no widgets for it
            out[one.id][sub.id] = sub.default


def check_menu(node: type[io.ComfyNode], name: str, one: io.Input, value: Any) -> None:
    """raises: ValueError for a choice that a menu does not have now: other packs may add samplers and schedules later."""
    if one.get_io_type() != "COMBO" or one.id in OPEN_MENUS or value in one.options or is_link(value):
        return
    options = next((now.options for at, now in menus(node) if at == name), one.options)
    if value not in options:
        raise ValueError(f"{name} is {found(value)}; it must be one of {listed(options, value)}")


def menus(node: type[io.ComfyNode]) -> Iterator[tuple[str, io.Combo.Input]]:
    """Every menu of a node as it is now, by its name; those within a choice as `choice.part`."""
    for one in node.define_schema().inputs:
        if isinstance(one, io.DynamicCombo.Input):
            yield from ((f"{one.id}.{sub.id}", sub) for option in one.options for sub in option.inputs)
        else:
            yield one.id, one


def listed(options: Iterable[Any], asked: Any) -> str:
    """The choices of a menu; of a long one those that are most like what was asked for, and the first."""
    names = [str(option) for option in options]
    if len(names) <= MAX_LISTED:
        return ", ".join(names)
    close = difflib.get_close_matches(str(asked)[:MAX_NAME], names, 3)
    shown = list(dict.fromkeys([*close, *names]))[:MAX_LISTED]
    return f"{', '.join(shown)} and {len(names) - len(shown)} more"


def check_value(name: str, one: io.Input, value: Any) -> Any:
    """A value that its input allows; a whole number as an int. None of an optional input that is no number is its default.
    A seed below 0, such as a random one of ComfyUI's Int node, is the one that torch makes of it.

    raises: ValueError naming it, what was found and what is allowed.
    """
    kind = one.get_io_type()
    if one.rawLink and is_link(value):  # where it comes from, not what comes
        return value
    if getattr(one, "control_after_generate", None) and type(value) is int and MIN_TORCH_SEED <= value < 0:
        value += NUM_SEEDS
    if kind in ("INT", "FLOAT"):
        return number(name, value, kind == "INT", one.min, one.max)
    if value is None and one.optional:
        return getattr(one, "default", None)
    if kind in KINDS:
        fits, words = KINDS[kind]
        if not fits(value):
            raise ValueError(f"{name} is {found(value)}; allowed is {words}")
    return value


def number(name: str, value: Any, whole: bool, low: float | None, high: float | None) -> int | float:
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    fits = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high  # nan does not
    if not fits or abs(value) == math.inf or (whole and value != int(value)):
        raise ValueError(
            f"{name} is {found(value)}; allowed is {'a whole number' if whole else 'a number'} from {low} to {high}"
        )
    return int(value) if whole else value


def found(value: Any) -> str:
    """A value as an error names it: shortened; of an object the type only."""
    return short(value) if isinstance(value, PLAIN) else f"of the type {type(value).__name__}"


def has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def is_clip(value: Any) -> bool:
    """None passes: a checkpoint without a text encoder gives it, and `find_t5` has the remedy."""
    return value is None or has("tokenizer", "cond_stage_model")(value)


def is_conditioning(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and (entry[0] is None or torch.is_tensor(entry[0]))
        and isinstance(entry[1], Mapping)
        for entry in value
    )


def is_latent(value: Any) -> bool:
    return isinstance(value, Mapping) and hasattr(value.get("samples"), "shape")


def is_sigmas(value: Any) -> bool:
    return torch.is_tensor(value) and value.ndim == 1


def is_tensor_of(*dimensions: int) -> Callable[[Any], bool]:
    return lambda value: torch.is_tensor(value) and value.ndim in dimensions


# Type of an input -> check of a value, and what is allowed in words.
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "BOOLEAN": (lambda value: isinstance(value, int), "true or false"),
    "STRING": (lambda value: isinstance(value, str), "text"),
    "COMBO": (lambda value: isinstance(value, str), "a name from the menu"),
    "MODEL": (has("clone", "get_model_object", "model_options"), "a MODEL, from a model's loader"),
    "CLIP": (is_clip, "a CLIP, from a text encoder's loader"),
    "CONDITIONING": (is_conditioning, "CONDITIONING, from a prompt's node"),
    "LATENT": (is_latent, "a LATENT, from an empty latent's node or VAE Encode"),
    "CHROMA_SETTINGS": (
        lambda value: isinstance(value, Settings),
        "the settings of Chroma Preset, Chroma Speed or Chroma Flash",
    ),
    "SIGMAS": (is_sigmas, "SIGMAS, from a scheduler"),
    "STYLE_MODEL": (has("get_cond"), "a STYLE_MODEL, from Load Style Model"),
    "CLIP_VISION_OUTPUT": (has("last_hidden_state"), "a CLIP_VISION_OUTPUT, from CLIP Vision Encode"),
    "CONTROL_NET": (has("copy", "get_control"), "a CONTROL_NET, from Load ControlNet Model"),
    "IMAGE": (is_tensor_of(4), "an IMAGE, such as Load Image's"),
    "MASK": (is_tensor_of(2, 3), "a MASK, such as Load Image's"),
    "VAE": (has("encode", "decode"), "a VAE, from Load VAE"),
}
