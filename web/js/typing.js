// Shows on Chroma Text Encode and Chroma Prompt what becomes of a text while it is typed: how many tokens, what falls off, what
// a terse prompt leaves open. nodes/shared/text_ahead.py counts with T5's own tokenizer.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { listed } from "./dom_widget.js";
import { widgetFor } from "./graph_query.js";
import { preview } from "./report.js";

const PATH = "/chroma/prompt";
const KINDS = ["ChromaTextEncode", "ChromaPrompt"];
const LOOK_MS = 250; // a text that has not changed since the last look is asked for

const writers = new Set(); // of the nodes that stand in a graph

class Writer {
  constructor(node) {
    this.node = node;
    this.seen = null; // the query at the last look
    this.asked = null; // the query that was asked last
    this.busy = false;
  }

  async look() {
    if (this.busy || !this.node.graph) return;
    const body = this.query();
    const rests = body === this.seen;
    this.seen = body;
    if (!rests || body === this.asked) return;
    const first = this.asked === null;
    this.asked = body;
    if (body === "") return preview(this.node, null, first); // the text is another node's
    this.busy = true;
    try {
      const headers = { "Content-Type": "application/json" };
      const { report } = await (await api.fetchApi(PATH, { method: "POST", headers, body })).json();
      if (report) preview(this.node, report, first);
    } catch {
      this.asked = null; // the server is away; asked again
    } finally {
      this.busy = false;
    }
  }

  query() {
    const inputs = {};
    for (const { name } of this.node.widgets ?? []) {
      const found = widgetFor(this.node, name);
      if (found && ["string", "number"].includes(typeof found.widget.value)) inputs[name] = found.widget.value;
    }
    return inputs.text === undefined ? "" : JSON.stringify({ class_type: this.node.comfyClass, inputs });
  }
}

app.registerExtension({
  name: "Chroma.Typing",
  setup() {
    setInterval(() => document.hidden || writers.forEach((writer) => writer.look()), LOOK_MS);
    api.addEventListener("reconnected", () => writers.forEach((writer) => (writer.asked = null)));
  },
  nodeCreated(node) {
    if (!KINDS.includes(node.comfyClass)) return;
    const writer = new Writer(node);
    listed(node, writers, writer);
  },
});
