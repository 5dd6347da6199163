"""Nodes of FluxMod that are gone: the table against what was published, the host's own replacement, and its check of a graph."""

import copy
import importlib
import json
import logging
import types

import pytest
import support
import torch
from fluxmod_nodes import CONNECTED, PUBLISHED

pytestmark = pytest.mark.host

GRAPHS = {
    path.stem: json.loads(path.read_text()) for path in sorted((support.ROOT / "tests" / "old_graphs").glob("*.json"))
}
OLD = [name for name in PUBLISHED if name not in ("ChromaDiffusionLoader", "ChromaStyleModelApply", "FluxModSamplerWrapperNode", "KSamplerMod")]  # fmt: skip


@pytest.fixture(scope="module")
def table(comfy):
    return support.dev.load_pack("nodes.old_graphs.table")


@pytest.fixture(scope="module")
def queued(comfy):
    return support.dev.load_pack("nodes.old_graphs.queued")


@pytest.fixture(scope="module")
def ours(comfy):
    """Id -> class of this pack's nodes."""
    import asyncio

    extension = support.dev.load_pack("nodes").ChromaExtension()
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture
def known(table):
    """Ids as if every node of the table's were here, and FluxMod were not."""
    return {row.new for row in table.TABLE}


@pytest.fixture
def server(comfy, monkeypatch):
    """The server's two lists, the host's own manager of replacements among them."""
    from app.node_replace_manager import NodeReplaceManager
    from server import PromptServer

    handlers = []
    instance = types.SimpleNamespace(
        node_replace_manager=NodeReplaceManager(), add_on_prompt_handler=handlers.append, handlers=handlers
    )
    monkeypatch.setattr(PromptServer, "instance", instance, raising=False)
    return instance


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_published_id_is_a_row_or_a_node_of_ours(table, ours):
    rows = [row.old for row in table.TABLE]
    assert rows == sorted(set(rows))
    assert not set(rows) & set(ours)
    assert set(rows) | set(ours) >= set(PUBLISHED) and set(rows) <= set(PUBLISHED)
    assert sorted(OLD) == rows


@pytest.mark.parametrize("name", OLD)
def test_a_row_has_the_inputs_of_every_published_version(table, name):
    (row,) = [row for row in table.TABLE if row.old == name]
    versions = PUBLISHED[name][1]
    newest = versions[-1]
    assert [n for n in newest if n in CONNECTED] == list(row.connected)
    assert [n for n in newest if n not in CONNECTED] == list(row.typed)  # by place in a saved page
    assert {n for version in versions for n in newest if n not in version} == set(row.early)
    assert all(version == newest[: len(version)] for version in versions)  # places are those of every version


@pytest.mark.parametrize("name", OLD)
def test_a_row_gives_all_that_our_node_needs(table, ours, name):
    (row,) = [row for row in table.TABLE if row.old == name]
    inputs = ours[row.new].INPUT_TYPES()
    given = {*row.inputs.values(), *row.added}
    assert set(inputs["required"]) <= given <= {*inputs["required"], *inputs.get("optional", {})}
    assert len(given) == len(row.inputs) + len(row.added)
    (output,) = ours[row.new].GET_SCHEMA().outputs
    assert output.io_type == PUBLISHED[name][0]


def test_no_file_is_said_by_leaving_an_optional_input_out(table, ours):
    for node, names in table.MAY_BE_NO_FILE.items():
        assert not set(names) & set(ours[node].INPUT_TYPES()["required"])


def test_old_texts_of_precision_are_known_to_the_loader(ours):
    from fluxmod_nodes import QUANT_MODES

    assert all(ours["ChromaDiffusionLoader"].validate_inputs(mode) is True for mode in QUANT_MODES)


@pytest.mark.parametrize("length", [0, 7, 19, 20])
def test_padding_removal_is_fluxmods(comfy, queued, table, length):
    """FluxMod's formula: the mask's sum and one more token, no mask, guidance 0."""
    (row,) = [row for row in table.TABLE if row.old == "ChromaPaddingRemoval"]
    tokens = torch.randn(1, 20, 8)
    mask = (torch.arange(20) < length).long()[None]
    inputs = queued.new_inputs(row, {"conditioning": [[tokens, {"attention_mask": mask}]]})
    (((found, options),), _) = support.dev.load_pack("nodes.padding").trim_conditioning(
        inputs["conditioning"], inputs["pad_tokens"]
    )
    assert torch.equal(found, tokens[:, : length + 1])
    assert "attention_mask" not in options and options["guidance"] == 0


# --- queued graphs ---------------------------------------------------------------------------------------------------


def becomes(name):
    return {**GRAPHS[name]["prompt"], **GRAPHS[name]["becomes"]}


def test_every_old_id_is_in_a_graph():
    found = {node["class_type"] for graph in GRAPHS.values() for node in graph["prompt"].values()}
    assert found >= set(OLD)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_old_graph_becomes_one_of_ours(queued, known, name):
    prompt = GRAPHS[name]["prompt"]
    before = copy.deepcopy(prompt)
    found, replaced = queued.renewed(prompt, known)
    assert found == becomes(name) and list(found) == list(prompt)
    assert replaced.total() == len(GRAPHS[name]["becomes"])
    assert prompt == before
    assert queued.renewed(found, known) == (found, {})


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "flux_first"])
def test_the_hosts_own_replacement_gives_the_same(queued, known, server, monkeypatch, name):
    """With what only ours does: titles that are missing, and a menu's None."""
    import nodes

    support.dev.load_pack("nodes.old_graphs.registration").register()
    for one in known:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, one, object)
    prompt = {k: {**node, "_meta": {"title": k}} for k, node in copy.deepcopy(GRAPHS[name]["prompt"]).items()}
    ours, _ = queued.renewed(prompt, known)
    theirs = copy.deepcopy(prompt)
    server.node_replace_manager.apply_replacements(theirs)
    assert queued.renewed(theirs, known)[0] == ours


def test_an_input_that_early_versions_lacked_is_the_hosts_error(known, server, monkeypatch):
    import nodes

    support.dev.load_pack("nodes.old_graphs.registration").register()
    for one in known:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, one, object)
    prompt = {k: {**n, "_meta": {}} for k, n in copy.deepcopy(GRAPHS["flux_first"]["prompt"]).items()}
    with pytest.raises(KeyError, match="quant_mode"):
        server.node_replace_manager.apply_replacements(prompt)


def test_fluxmods_own_nodes_are_left_to_it(queued, known):
    prompt = {k: n for k, n in GRAPHS["chroma"]["prompt"].items()}
    found, replaced = queued.renewed(prompt, known | {"ChromaPaddingRemoval"})
    assert found == prompt and not replaced


def test_a_node_whose_successor_is_not_here_is_left_alone(queued):
    prompt = GRAPHS["chroma"]["prompt"]
    assert queued.renewed(prompt, {"ChromaDiffusionLoader"}) == (prompt, {})


def test_a_menu_that_the_page_has_filled_with_none_is_left_out(queued, known):
    inputs = {"unet_name": "a", "quant_mode": "auto", "approximator": "None", "prediction": "v"}
    node = {"class_type": "ChromaDiffusionLoader", "inputs": inputs, "_meta": {"title": "x"}}
    found, replaced = queued.renewed({"1": node}, known)
    assert found["1"] == {**node, "inputs": {"unet_name": "a", "quant_mode": "auto", "prediction": "v"}}
    assert not replaced and inputs["approximator"] == "None"


def test_links_and_missing_inputs_pass_as_they_are(queued, known):
    node = {"class_type": "FluxModDiffusionLoader", "inputs": {"unet_name": ["9", 0], "quant_mode": ["9", 1]}}
    found, _ = queued.renewed({"1": node}, known)
    assert found["1"] == {
        "class_type": "ChromaDiffusionLoader",
        "inputs": {"unet_name": ["9", 0], "quant_mode": ["9", 1]},
    }


# --- the handler, which must never fail ------------------------------------------------------------------------------

BAD = [None, [], "text", {}, {"prompt": None}, {"prompt": []}, {"prompt": {"1": None, "2": 5, "3": [], "4": {}}}]
BAD += [{"prompt": {"1": {"class_type": kind, "inputs": inputs}}} for kind in ([], {}, 3, "SkipLayerForward") for inputs in (None, [], 5)]  # fmt: skip


@pytest.mark.parametrize("posted", BAD, ids=str)
def test_what_is_no_graph_is_passed_on(queued, posted, caplog):
    before = copy.deepcopy(posted)
    assert queued.on_prompt(posted) == before
    assert len(caplog.records) <= 1 and "Traceback" not in caplog.text


def test_an_error_of_ours_is_one_line_and_the_graph_is_queued_as_it_was(queued, monkeypatch, caplog):
    monkeypatch.setattr(queued, "renewed", lambda *_: 1 / 0)
    posted = {"prompt": GRAPHS["chroma"]["prompt"], "client_id": "x"}
    assert queued.on_prompt(posted) is posted
    assert [r.getMessage() for r in caplog.records] == [
        "Chroma Pack: old nodes in the queued graph were not looked for (ZeroDivisionError: division by zero)"
    ]


def test_what_was_replaced_is_told_in_one_line_and_the_rest_of_the_post_stays(queued, known, monkeypatch, caplog):
    monkeypatch.setattr(queued, "NODE_CLASS_MAPPINGS", dict.fromkeys(known))
    caplog.set_level(logging.INFO)
    posted = {"prompt": GRAPHS["chroma"]["prompt"], "client_id": "x", "extra_data": {"a": 1}}
    assert queued.on_prompt(posted) == {**posted, "prompt": becomes("chroma")}
    assert [r.getMessage() for r in caplog.records] == [
        "Chroma Pack: 2 nodes of FluxMod replaced for this run (ChromaPaddingRemoval by ChromaPadMask)"
    ]


# --- what the page is told -------------------------------------------------------------------------------------------


def as_the_page(row, node, links):
    """Inputs of the new node after the page's own replacement (front end 1.47): rows in order, widgets by their place.

    What it does in a browser is looked at in tests/browser/test_old_graphs.py.
    """
    out, values = {}, node["widgets_values"]
    slots = {one["name"]: one["link"] for one in node["inputs"]}
    for one in row["input_mapping"]:
        if "set_value" in one:
            out[one["new_id"]] = one["set_value"]
        elif slots.get(one["old_id"]) is not None:
            out[one["new_id"]] = [str(links[slots[one["old_id"]]][1]), links[slots[one["old_id"]]][2]]
        elif one["old_id"] in row["old_widget_ids"] and row["old_widget_ids"].index(one["old_id"]) < len(values):
            out[one["new_id"]] = values[row["old_widget_ids"].index(one["old_id"])]
    return out


@pytest.mark.parametrize("name", GRAPHS)
def test_a_saved_page_has_the_same_values_after_its_replacement(table, queued, known, server, name):
    support.dev.load_pack("nodes.old_graphs.registration").register()
    told = server.node_replace_manager.as_dict()
    assert sorted(told) == sorted(OLD)
    page = GRAPHS[name]["page"]
    links = {link[0]: link for link in page["links"]}
    for node in page["nodes"]:
        if node["type"] in told:
            (row,) = told[node["type"]]
            made = {"1": {"class_type": row["new_node_id"], "inputs": as_the_page(row, node, links)}}
            assert queued.renewed(made, known)[0]["1"] == GRAPHS[name]["becomes"][str(node["id"])]
            assert row["output_mapping"] == [{"new_idx": 0, "old_idx": 0}]


def test_registering_again_adds_no_second_row(server):
    registration = support.dev.load_pack("nodes.old_graphs.registration")
    for _ in range(2):
        registration.register()
    assert {len(rows) for rows in server.node_replace_manager.as_dict().values()} == {1}


def test_a_server_that_refuses_is_one_line_and_the_pack_stays(comfy, server, caplog):
    del server.node_replace_manager
    support.dev.load_pack("nodes.old_graphs.registration").register()
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("Chroma Pack: FluxMod's old nodes are not replaced by themselves (AttributeError: ")


def test_without_a_server_nothing_is_registered(comfy, monkeypatch, caplog):
    from server import PromptServer

    monkeypatch.delattr(PromptServer, "instance", raising=False)
    support.dev.load_pack("nodes.old_graphs.registration").register()
    assert not caplog.records


# --- the host's check of a whole graph ---------------------------------------------------------------------------------

HOST_NODES = {
    "comfy_extras.nodes_model_advanced": ("ModelSamplingAuraFlow",),
    "comfy_extras.nodes_sd3": ("EmptySD3LatentImage",),
    "comfy_extras.nodes_flux": ("FluxGuidance",),
    "comfy_extras.nodes_custom_sampler": (
        *("KSamplerSelect", "BasicScheduler", "BasicGuider", "RandomNoise", "SamplerCustom", "SamplerCustomAdvanced"),
    ),
}


@pytest.fixture
def files(comfy, monkeypatch, tmp_path):
    """Files under the names that the graphs have, FluxMod's where it had them at first: in models/checkpoints."""
    import folder_paths

    placed = {
        "checkpoints": {
            **dict.fromkeys(
                ("chroma-demo-flux", "chroma-demo-flux-19"), {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}
            ),
            **dict.fromkeys(
                ("chroma-demo-modulator", "chroma-demo-lite-modulator"),
                {f"{n}_proj.weight": torch.zeros(1) for n in ("in", "out")},
            ),
            "chroma-demo-lite-patch": {"img_attn.qkv.weight": torch.zeros(1)},
        },
        "diffusion_models": {"chroma-demo": {}},
        "text_encoders": {"chroma-demo-t5": {}},
        "vae": {"chroma-demo-vae": {}},
    }
    for folder, named in placed.items():
        for name, tensors in named.items():
            support.write(tmp_path / folder / f"{name}.safetensors", tensors)
        entry = ([str(tmp_path / folder)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


@pytest.mark.parametrize("name", GRAPHS)
def test_the_host_takes_an_old_graph_for_its_queue(files, ours, queued, server, monkeypatch, name):
    import asyncio

    import execution

    import nodes

    mappings = {one: nodes.NODE_CLASS_MAPPINGS[one] for one in ("CLIPLoader", "VAELoader", "CLIPTextEncode", "KSampler", "VAEDecode", "SaveImage")}  # fmt: skip
    for module, names in HOST_NODES.items():
        mappings.update({one: getattr(importlib.import_module(module), one) for one in names})
    for where in (nodes, queued):
        monkeypatch.setattr(where, "NODE_CLASS_MAPPINGS", {**mappings, **ours})
    posted = queued.on_prompt({"prompt": copy.deepcopy(GRAPHS[name]["prompt"])})
    server.node_replace_manager.apply_replacements(posted["prompt"])
    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("id", posted["prompt"], None))
    assert valid, (error, node_errors)
    assert len(outputs) == 1 and not node_errors


def test_a_node_of_our_name_by_another_pack_is_told_once(comfy, monkeypatch, caplog):
    """Which of two the host keeps depends on the order in which it reads its folder."""
    import nodes

    load_pack = support.dev.load_pack
    module = load_pack("nodes.taken_names")
    ours = load_pack("nodes.loader").ChromaDiffusionLoader
    posted = {"prompt": {"1": {"class_type": "ChromaDiffusionLoader"}, "2": {"class_type": "KSampler"}, "3": {}}}
    monkeypatch.setattr(module, "told", set())
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "ChromaDiffusionLoader", ours)
    assert module.tell_taken(posted) is posted and caplog.text == ""
    other = type("Other", (), {"RELATIVE_PYTHON_MODULE": "custom_nodes.zz-other"})
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "ChromaDiffusionLoader", other)
    for _ in range(2):
        assert module.tell_taken(posted) is posted
    assert caplog.text.count("the node ChromaDiffusionLoader is that of custom_nodes.zz-other") == 1
    assert module.tell_taken(damaged := {"prompt": 5}) is damaged
