"""The pack in several languages: English is what the nodes say, and the others have every text of it.

CHROMA_PACK_WRITE=1 python dev.py test -k locales    writes the English files and the record of all nodes anew
"""

import json
import os

import node_changes
import pytest
import support

from tools.batching.workflow import DYNAMIC_COMBO

pytestmark = pytest.mark.host

ROOT = support.ROOT
LOCALES = ROOT / "locales"
LANGUAGES = ("en", "zh", "ja", "de")
SCHEMAS = ROOT / "tests" / "nodes" / "nodes.json"
REMEDY = "if that is meant: CHROMA_PACK_WRITE=1 python dev.py test -k locales, and look at what git says has changed"
BREAKING = "breaking"
BREAKING_REMEDY = (
    "Workflows that people have saved would break; of what no release has had, CHROMA_PACK_WRITE=breaking writes it"
)
WRITE = bool(os.environ.get("CHROMA_PACK_WRITE"))


@pytest.fixture(scope="module")
def ours(server):
    """What the server says of our nodes; not of parts, which menus do not show."""
    info = server.get("/object_info")
    shown = {name: node for name, node in sorted(info.items()) if not node.get("dev_only")}
    return {name: node for name, node in shown.items() if node["python_module"] == "custom_nodes.chroma-pack"}


def all_inputs(node, prefix=""):
    """(name, kind, options) of every input, those of all dynamic choices included."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in node.get(group, {}).items():
            options = rest[0] if rest else {}
            yield prefix + name, kind, options
            if kind == DYNAMIC_COMBO:
                for option in options["options"]:
                    yield from all_inputs(option["inputs"], f"{prefix}{name}.")


def english(node):
    """A node's texts in the form that the front end looks them up by."""
    inputs = {}
    for name, _, options in all_inputs(node["input"]):
        entry = {"name": options.get("display_name") or name.rpartition(".")[2]}
        if options.get("tooltip"):
            entry["tooltip"] = options["tooltip"]
        inputs.setdefault(name.replace(".", "_"), entry)
    outputs = {
        str(i): {"name": name, **({"tooltip": tooltip} if tooltip else {})}
        for i, (name, tooltip) in enumerate(zip(node["output_name"], node.get("output_tooltips") or []))
    }
    out = {"display_name": node["display_name"], "description": node["description"]}
    return out | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


def written(path, value):
    """The file's JSON, which is written first where that is asked for."""
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def leaves(value, place=()):
    """Every text with the keys that lead to it."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from leaves(inner, (*place, key))
        else:
            yield (*place, key), inner


def texts(language):
    return dict(leaves(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))))


def test_english_is_what_the_nodes_say(ours):
    wanted = {name: english(node) for name, node in ours.items()}
    assert written(LOCALES / "en" / "nodeDefs.json", wanted) == wanted, REMEDY


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_text_is_translated(language):
    source, translated = texts("en"), texts(language)
    assert translated.keys() == source.keys()
    assert all(isinstance(text, str) and text.strip() for text in translated.values())
    same = [place for place, text in source.items() if len(text.split()) > 4 and translated[place] == text]
    assert not same  # a sentence that was left in English


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_numbers_and_names_survive_translation(language):
    """Figures, settings' values and file names are the same in every language."""
    import re

    pattern = re.compile(r"\d+(?:\.\d+)?|[a-z]+_[a-z0-9_]+|\.(?:safetensors|gguf|pth)|T5|GGUF|LoRA|VAE|FLUX")
    source, translated = texts("en"), texts(language)
    for place, text in source.items():
        if place[-1] in ("tooltip", "description"):
            wanted, found = (set(pattern.findall(t)) for t in (text, translated[place].replace(",", ".")))
            assert wanted <= found, (place, wanted - found)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_choices_are_named_as_their_menu_has_them(language):
    """Menus are not translated, so what a tooltip explains of them stands there in English."""
    source, translated = texts("en"), texts(language)
    told = 0
    for node, record in json.loads(SCHEMAS.read_text(encoding="utf-8")).items():
        for row in record["inputs"]:
            place = (node, "inputs", row["name"].replace(".", "_"), "tooltip")
            named = [choice for choice in row.get("choices", ()) if f"{choice}: " in source.get(place, "")]
            assert [choice for choice in named if choice not in translated[place]] == [], place
            told += len(named)
    assert told > 20


def test_the_server_serves_every_language(server):
    translations = server.get("/i18n")
    for language in LANGUAGES:
        assert "ChromaDiffusionLoader" in translations[language]["nodeDefs"]


def record(node):
    """What saved workflows depend on: ids, kinds, defaults, ranges and choices, in their order."""
    kept = ("default", "min", "max", "step", "multiline", "advanced", "forceInput", "control_after_generate")
    inputs = []
    for name, kind, options in all_inputs(node["input"]):
        entry = {"name": name, "kind": kind if isinstance(kind, str) else "COMBO"}
        entry |= {key: options[key] for key in kept if key in options}
        choices = options.get("options") if isinstance(kind, str) else kind
        if choices:
            entry["choices"] = [c["key"] if isinstance(c, dict) else c for c in choices]
        if name in OPEN_CHOICES.get(node["name"], ()):
            entry.pop("choices", None)
            entry.pop("default", None)
        inputs.append(entry)
    required = list(node["input"].get("required", {}))
    return {"inputs": inputs, "required": required, "outputs": [*zip(node["output"], node["output_name"])]}


# Choices that come from folders, or from the host's own lists.
OPEN_CHOICES = {
    "ChromaDiffusionLoader": ("unet_name", "approximator", "lite_patch"),
    "ChromaCLIPLoader": ("clip_name",),
    "ChromaLoraLoader": ("lora_name",),
    "ChromaKSampler": ("sampler", "schedule"),
    "ChromaStudio": (
        *("unet_name", "clip_name", "vae_name", "approximator", "quality.sampler", "quality.schedule"),
        *(f"loras.lora_{i}" for i in (1, 2, 3)),
    ),
    "ChromaPreset": ("sampler",),
    "ChromaPromptList": ("file",),
    "KSamplerMod": ("sampler_name", "scheduler"),
}


def test_nodes_are_as_shared_workflows_know_them(ours):
    """A node, input, default or choice that changes breaks workflows; a new input at the end is optional."""
    wanted = json.loads(json.dumps({name: record(node) for name, node in ours.items()}))
    broken = node_changes.breaks(json.loads(SCHEMAS.read_text(encoding="utf-8")), wanted)
    if os.environ.get("CHROMA_PACK_WRITE") != BREAKING:
        assert not broken, f"{broken}. {BREAKING_REMEDY}"
    assert written(SCHEMAS, wanted) == wanted, REMEDY
