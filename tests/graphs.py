"""The demo workflow as a prompt, and small changes to it."""

from __future__ import annotations

import asyncio
import copy
import json

import support

dev = support.dev


class Graph:
    """A prompt for the server, with its nodes found by class and title."""

    def __init__(self, nodes):
        self.nodes = nodes

    @classmethod
    def demo(cls, server):
        workflow = json.loads(dev.WORKFLOW.read_text())
        graph = cls(dev.api_graph(workflow, server.get("/object_info")))
        graph.set("KSampler", steps=2)
        return graph

    def copy(self):
        return Graph(copy.deepcopy(self.nodes))

    def find(self, class_type, title=None):
        for key, node in self.nodes.items():
            if node["class_type"] == class_type and title in (None, node["_meta"]["title"]):
                return key
        raise KeyError(class_type)

    def set(self, class_type, title=None, **inputs):
        self.nodes[self.find(class_type, title)]["inputs"].update(inputs)
        return self

    def add(self, class_type, **inputs):
        key = str(max(map(int, self.nodes)) + 1)
        self.nodes[key] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": ""}}
        return key

    def model_through(self, class_type, output=0, **inputs):
        """Puts a node between the loader and what takes its MODEL."""
        loader = self.find("ChromaDiffusionLoader")
        takers = [n for n in self.nodes.values() for v in n["inputs"].values() if v == [loader, 0]]
        key = self.add(class_type, model=[loader, 0], **inputs)
        for node in takers:
            for name, value in node["inputs"].items():
                if value == [loader, 0]:
                    node["inputs"][name] = [key, output]
        return key

    def run(self, server):
        return server.run(self.nodes)

    def fails(self, server):
        """The error text of a run that is expected to fail in a node."""
        entry = server.wait(server.queue(self.nodes))
        assert entry["status"]["status_str"] == "error", "the run succeeded"
        return dev.error_of(entry)


def follow(server, graph, on_step=None):
    """Queues a graph and gives every websocket message until its end: dicts, and bytes for binary ones."""
    import aiohttp

    async def run():
        messages = []
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{server.url}/ws?clientId=test", max_msg_size=0) as ws:
                prompt = await asyncio.to_thread(server.queue, graph.nodes, "test")
                async for message in ws:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        messages.append(message.data)
                        continue
                    data = json.loads(message.data)
                    messages.append(data)
                    if data["type"] == "progress" and on_step:
                        await asyncio.to_thread(on_step, data["data"]["value"])
                    own = data.get("data", {}).get("prompt_id") == prompt
                    if own and data["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                        return messages
        return messages

    return asyncio.run(asyncio.wait_for(run(), 120))


def texts(messages):
    """Texts that nodes showed on themselves: beside their outputs, or as an event after them."""
    out = []
    for message in (m for m in messages if isinstance(m, dict)):
        if message["type"] == "chroma.report":
            out.append(message["data"]["text"])
        if message["type"] == "executed":
            out += [json.loads(told)["text"] for told in (message["data"]["output"] or {}).get("chroma_report", ())]
    return out
