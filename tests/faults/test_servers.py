"""A real server that dies while it saves, meets this pack twice and its names elsewhere, and is asked by two at once."""

import asyncio
import json
import shutil
import time

import numpy as np
import pytest
import support
from graphs import Graph

Image = pytest.importorskip("PIL.Image")
aiohttp = pytest.importorskip("aiohttp")

pytestmark = pytest.mark.host
dev = support.dev
BIG = {"width": 512, "heads": 8, "double": 6, "single": 12, "approximator": (64, 64, 2)}  # some seconds to write
SAVED = "faults"


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def own_server(folder, name):
    """A server with a base folder of its own, whose models are those of the tests."""
    shared = dev.base_dir() / "models"
    base = folder / "base"
    for part in ("custom_nodes", "input", "output", "user", "models/diffusion_models"):
        (base / part).mkdir(parents=True, exist_ok=True)
    for kind in ("text_encoders", "vae"):
        if not (base / "models" / kind).exists():
            (base / "models" / kind).symlink_to(shared / kind, target_is_directory=True)
    target = base / "models" / "diffusion_models" / "chroma-demo.safetensors"
    if not target.exists():
        target.symlink_to(shared / "diffusion_models" / target.name)
    if not any((base / "custom_nodes").iterdir()):
        dev.link(base / "custom_nodes" / "chroma-pack")
    arguments = ("--base-directory", str(base))  # the last one counts
    return base, dev.Server(arguments=arguments, log=dev.cache_dir() / f"test-{name}.log", cpu=True)


@pytest.mark.slow
def test_a_server_killed_while_it_saves_leaves_no_file_and_the_next_one_works(host_dir, tmp_path):
    base, server = own_server(tmp_path, "killed")
    big = base / "models" / "diffusion_models" / "big.safetensors"
    support.write(big, support.published(support.random_weights(support.config(**BIG))))
    graph = {
        "1": {"class_type": "ChromaDiffusionLoader", "inputs": {"unet_name": big.name, "quant_mode": "auto"}},
        "2": {
            "class_type": "ChromaSaveQuantized",
            "inputs": {"model": ["1", 0], "format": "q4_1", "filename_prefix": f"{SAVED}/big"},
        },
    }
    folder = base / "output" / SAVED
    with server:
        server.queue(graph)
        deadline = time.monotonic() + 120
        while not list(folder.glob("*.partial")):
            assert time.monotonic() < deadline and server.process.poll() is None, server.log_tail()
            time.sleep(0.002)
        server.process.kill()
        server.process.wait()
    (left,) = folder.iterdir()
    assert left.name.endswith(".partial")  # which no loader lists
    _, server = own_server(tmp_path, "killed")
    with server:
        entry = server.wait(server.queue(graph))
        assert entry["status"]["status_str"] == "success", dev.error_of(entry)
        assert sorted(p.suffix for p in folder.iterdir()) == [".gguf", ".partial"]
        listed = json.dumps(server.get("/object_info/ChromaDiffusionLoader"))
        assert "big.safetensors" in listed and "partial" not in listed


OTHER = """
class Loader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "run", "other"
    def run(self):
        raise RuntimeError("the other pack's")
NODE_CLASS_MAPPINGS = {"ChromaDiffusionLoader": Loader, "OtherNode": Loader}
NODE_DISPLAY_NAME_MAPPINGS = {}
"""


@pytest.mark.slow
def test_the_pack_twice_and_a_pack_with_our_names_leave_one_that_paints(host_dir, tmp_path):
    """Of two nodes of one name ComfyUI keeps the one that it loads last, in the order in which the system lists folders: if that is
    the other pack's, the graph fails in it, and the log says whose node it is."""
    base, server = own_server(tmp_path, "twice")
    copy = base / "custom_nodes" / "chroma-pack-copy"
    shutil.copytree(
        support.ROOT, copy, ignore=shutil.ignore_patterns(".git", "demo", "tests", "benchmarks", ".hypothesis")
    )
    (base / "custom_nodes" / "zz-other").mkdir()
    (base / "custom_nodes" / "zz-other" / "__init__.py").write_text(OTHER)
    with server:
        info = server.get("/object_info")
        packs = {name: node["python_module"] for name, node in info.items() if "custom_nodes" in node["python_module"]}
        ours = {name: module for name, module in packs.items() if name.startswith("Chroma")}
        assert len(ours) > 25 and "OtherNode" in info
        assert len({module for name, module in ours.items() if name != "ChromaDiffusionLoader"}) == 1
        log = server.log.read_text(errors="replace")
        assert log.count("is not loaded, since the one in") == 1 and "Remove one of the two and restart" in log
        other = ours["ChromaDiffusionLoader"] == "custom_nodes.zz-other"
        graph = Graph.demo(server)
        entry = server.wait(server.queue(graph.nodes))
        assert entry["status"]["status_str"] == ("error" if other else "success"), dev.error_of(entry)
        told = "the node ChromaDiffusionLoader is that of custom_nodes.zz-other"
        assert server.log.read_text(errors="replace").count(told) == other


FULL = """
import torch
ERRORS = {
    "device": (torch.OutOfMemoryError, "Allocation on device"),
    "processor": (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
}
class FullOnce:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": (list(ERRORS),), "call": ("INT", {})}}
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "run", "test"
    def run(self, model, kind, call):
        left = [call]
        def block(args, extra):
            left[0] -= 1
            if not left[0]:
                error, text = ERRORS[kind]
                raise error(text)
            return extra["original_block"](args)
        model = model.clone()
        model.set_model_patch_replace(block, "dit", "single_block", 1)
        return (model,)
NODE_CLASS_MAPPINGS = {"FullOnce": FullOnce}
"""


@pytest.mark.slow
def test_memory_that_ends_within_a_run_ends_that_prompt_alone(host_dir, tmp_path):
    """A block's second call of the run meets it, once. ComfyUI then unloads all models, if it was the device's memory."""
    base, server = own_server(tmp_path, "full")
    (base / "custom_nodes" / "full.py").write_text(FULL)
    with server:
        graph = Graph.demo(server)

        def painted(graph, seed):
            (told,) = graph.copy().set("KSampler", seed=seed).run(server)
            return pixels(base / told.relative_to(dev.base_dir()))

        reference = painted(graph, 1)
        assert (painted(graph, 2) != reference).any()
        for kind, words, anew in (
            ("device", "Allocation on device", 0.9999),
            ("processor", "can't allocate memory", 0.9998),
        ):
            full = graph.copy().set("KSampler", seed=1)
            full.model_through("FullOnce", kind=kind, call=2)
            told = full.fails(server)
            assert told.startswith("KSampler: ") and words in told
            assert ("ran out of memory" in told) == (kind == "device")
            assert (painted(full, 1) == reference).all()  # the node is kept, and fails once
            assert (painted(graph.copy().set("KSampler", denoise=anew), 1) == reference).all()
        assert server.process.poll() is None


@pytest.mark.slow
def test_one_seed_gives_the_same_pixels_in_another_server(server, tmp_path):
    graph = Graph.demo(server).set("KSampler", seed=81_000)
    (here,) = graph.run(server)
    base, other = own_server(tmp_path, "other")
    with other:
        (told,) = graph.copy().run(other)
    there = base / told.relative_to(dev.base_dir())
    assert (pixels(here) == pixels(there)).all()


def test_two_clients_that_queue_at_once_get_their_own_pictures(server):
    """Each hears of its own prompts alone, in the order in which it queued them, and gets the pixels that it gets alone."""
    graphs = {
        (client, i): Graph.demo(server).set("KSampler", seed=70_000 + 10 * c + i, steps=2 + i)
        for c, client in enumerate(("left", "right"))
        for i in range(3)
    }

    async def run(client):
        heard = []
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as ws:
                own = [g.copy() for (name, _), g in graphs.items() if name == client]
                prompts = [await asyncio.to_thread(server.queue, g.nodes, client) for g in own]
                async for message in ws:
                    if message.type != aiohttp.WSMsgType.TEXT:
                        continue
                    data = json.loads(message.data)
                    assert data["type"] != "execution_error", data
                    if data["type"] == "execution_success":
                        heard.append(data["data"]["prompt_id"])
                    told = (
                        data["data"].get("prompt_id") if data["type"] in ("executing", "executed", "progress") else None
                    )
                    assert told in (None, *prompts)
                    if len(heard) == len(prompts):
                        return prompts, heard

    async def both():
        return await asyncio.wait_for(asyncio.gather(run("left"), run("right")), 240)

    for client, (prompts, heard) in zip(("left", "right"), asyncio.run(both())):
        assert heard == prompts
        for i, prompt in enumerate(prompts):
            (image,) = [x for out in server.wait(prompt)["outputs"].values() for x in out.get("images", [])]
            path = dev.base_dir() / image["type"] / image["subfolder"] / image["filename"]
            again = (
                graphs[client, i].copy().set("KSampler", denoise=0.9999)
            )  # another input, so that it is computed anew
            assert (pixels(path) == pixels(again.run(server)[0])).all()
