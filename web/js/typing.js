// Shows on Chroma Text Encode, Chroma Prompt and Chroma Studio what becomes of a text while it is typed: how many tokens, what
// falls off, what a terse prompt leaves open. nodes/shared/text_ahead.py counts with T5's own tokenizer.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ask } from "./ask.js";
import { Pause, listed, lookAll } from "./dom_widget.js";
import { widgetFor } from "./graph_query.js";
import { Runs, preview } from "./report.js";

const PATH = "/chroma/prompt";
const PART = "text"; // of what the node tells before a run
const LOOK_MS = 250; // a text that has not changed since the last look is asked for

const writers = new Set(); // of the nodes that stand in a graph
let table = {}; // node class -> {texts, options}: its inputs in which prompts are typed, and others that count

class Writer {
  constructor(node) {
    this.node = node;
    this.runs = new Runs(node);
    this.hasRun = false;
    this.seen = null; // the query at the last look
    this.asked = null; // the query that was asked last
    this.busy = false;
    this.pause = new Pause(); // while the server is away
  }

  async look() {
    if (this.busy || this.pause.isOn) return;
    const body = this.query();
    const rests = body === this.seen;
    this.seen = body;
    this.hasRun = this.runs.hasToldSince() || (rests && this.hasRun); // since the text has changed
    if (!rests || body === this.asked) return;
    const stays = this.hasRun || this.asked === null;
    this.asked = body;
    if (body === "") return preview(this.node, PART, null, stays); // the text is another node's
    this.busy = true;
    try {
      const { report = null } = await ask(PATH, body); // none: too long a text
      this.pause.end();
      preview(this.node, PART, report, this.runs.hasToldSince() || stays);
    } catch {
      this.asked = null; // the server is away; asked again
      this.pause.begin();
    } finally {
      this.busy = false;
    }
  }

  query() {
    const { texts, options } = table[this.node.comfyClass];
    const inputs = {};
    for (const name of [...texts, ...options]) {
      const value = widgetFor(this.node, name)?.widget.value;
      if (["string", "number"].includes(typeof value)) inputs[name] = value;
    }
    return texts.some((name) => name in inputs) ? JSON.stringify({ class_type: this.node.comfyClass, inputs }) : "";
  }
}

app.registerExtension({
  name: "Chroma.Typing",
  async init() { // before the page makes its first node
    const answer = await api.fetchApi(PATH).catch(() => null);
    if (answer?.ok) table = await answer.json();
    else console.warn(`Chroma: ${PATH} does not answer; no tokens are counted while typing`);
  },
  setup() {
    setInterval(() => document.hidden || lookAll(writers), LOOK_MS);
    api.addEventListener("reconnected", () => writers.forEach((writer) => (writer.asked = null, writer.pause.end())));
  },
  nodeCreated(node) {
    if (!Object.hasOwn(table, node.comfyClass)) return;
    const writer = new Writer(node);
    listed(node, writers, writer);
  },
});
