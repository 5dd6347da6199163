"""What of a change to a node breaks workflows that people have saved: from the record before and after (nodes.json)."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")  # saved by their places


def breaks(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each thing that a saved workflow or prompt of the old nodes has, and the new ones do not take."""
    out = [f"{name}: the node is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        out += [f"{name}: {line}" for line in _of_node(old[name], new[name])]
    return sorted(out)


def _of_node(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = ({entry["name"]: entry for entry in node["inputs"]} for node in (old, new))
    for name, entry in before.items():
        if name not in after:
            yield f"input {name} is gone"
            continue
        yield from (f"{name} {line}" for line in _of_input(entry, after[name]))
    for name in new["required"]:
        if name not in old["required"]:
            yield f"{name} is required, and was not"
    places = [[n for n, entry in node.items() if "." not in n and entry["kind"] in WIDGETS] for node in (before, after)]
    kept = [name for name in places[0] if name in after]
    if places[1][: len(kept)] != kept:
        yield f"widgets stand in another order: {', '.join(places[1])}, before {', '.join(places[0])}"
    types = [[kind for kind, _ in node["outputs"]] for node in (old, new)]
    if types[1][: len(types[0])] != types[0]:
        yield f"outputs are {', '.join(types[1])}, before {', '.join(types[0])}"


def _of_input(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["kind"] != new["kind"] and old["kind"] not in new["kind"].split(","):
        yield f"is {new['kind']}, before {old['kind']}"
    if "default" in old and old["default"] != new.get("default"):
        yield f"has the default {new.get('default')!r}, before {old['default']!r}"
    for limit, worse in (("min", lambda a, b: b > a), ("max", lambda a, b: b < a)):
        if limit in new and (limit not in old or worse(old[limit], new[limit])):
            yield f"has the {limit} {new[limit]}, before {old.get(limit, 'none')}"
    gone = [choice for choice in old.get("choices", ()) if choice not in new.get("choices", old["choices"])]
    if gone:
        yield f"no longer takes {', '.join(map(str, gone))}"
