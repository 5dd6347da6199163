// "Open as nodes" on Chroma Studio: puts the graph that the server would run in its place onto the canvas, wired as the node
// was. What nodes there are is told by advice/studio.py alone, through nodes/shared/studio_graph.py.

import { app } from "../../../scripts/app.js";
import { ask } from "./ask.js";
import { connectAlike, isOnPage, linkOf, setValue, undoable } from "./graph_query.js";
import { word } from "./words.js";

const PATH = "/chroma/studio";
const STUDIO = "ChromaStudio";
const BUTTON = "Open as nodes"; // the widget's name, in every language
const OUTSIDE = "outside:"; // and an input's name: in the query it stands for what is connected there
const SUBGRAPH_OUTPUT = -20; // the node that stands for a subgraph's outputs
const TITLE = 30; // pixels of a node's title
const GAP = 40;
const REPORT = 190; // room below a node that will tell of its run
const MIN_WIDTH = 260; // of a node in Nodes 2.0, which grows to it once it is shown
const TEXT_SIZE = [400, 200]; // of a prompt

/** The node's inputs as a prompt has them, each link as OUTSIDE and its name. */
function inputsOf(node) {
  const inputs = {};
  for (const { name, value } of node.widgets ?? [])
    if (["string", "number", "boolean"].includes(typeof value)) inputs[name] = value;
  for (const { name, link } of node.inputs) if (link != null) inputs[name] = [OUTSIDE + name, 0];
  return inputs;
}

function connectTargets(studio, node, slot) {
  const { graph } = studio;
  for (const link of [...(studio.outputs[0].links ?? [])].map((id) => linkOf(graph, id))) {
    if (Number(link.target_id) === SUBGRAPH_OUTPUT) graph.outputs[link.target_slot].connect(node.outputs[slot], node);
    else node.connect(slot, graph.getNodeById(link.target_id), link.target_slot);
  }
}

/** Puts nodes into columns, each to the right of those that it needs, and makes room for them in the place of the old one. */
function arrange(studio, made, nodes) {
  const depths = new Map();
  const depthOf = (id) => {
    if (!depths.has(id)) {
      const before = Object.values(nodes[id].inputs).filter((value) => Array.isArray(value) && nodes[value[0]]);
      depths.set(id, 1 + Math.max(-1, ...before.map(([source]) => depthOf(source))));
    }
    return depths.get(id);
  };
  const columns = [];
  for (const id of made.keys()) (columns[depthOf(id)] ??= []).push(made.get(id));
  let [x, low] = [studio.pos[0], studio.pos[1]];
  for (const column of columns) {
    let y = studio.pos[1];
    for (const node of column) {
      node.pos = [x, y];
      const tells = node.constructor.nodeData?.python_module?.startsWith("custom_nodes");
      y += node.size[1] + TITLE + (tells ? REPORT : GAP);
    }
    x += Math.max(MIN_WIDTH, ...column.map((node) => node.size[0])) + GAP;
    low = Math.max(low, y);
  }
  const [right, bottom] = [studio.pos[0] + studio.size[0], studio.pos[1] + studio.size[1]];
  const ours = new Set(made.values());
  for (const other of studio.graph.nodes) {
    if (ours.has(other) || other === studio) continue;
    const [left, top] = other.pos;
    if (left >= right) other.pos = [left + Math.max(0, x - GAP - right), top];
    else if (top >= bottom) other.pos = [left, top + Math.max(0, low - bottom)];
  }
}

function place(studio, { nodes, output }) {
  const { graph } = studio;
  const made = new Map();
  for (const [id, { class_type, inputs, _meta }] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(class_type);
    node.mode = studio.mode; // what is switched off stays so
    graph.add(node);
    made.set(id, node);
    if (_meta) node.title = _meta.title;
    for (const [name, value] of Object.entries(inputs)) if (!Array.isArray(value)) setValue(node, name, value);
    if (class_type === "ChromaTextEncode") node.setSize(TEXT_SIZE);
  }
  const control = studio.widgets.find((widget) => widget.name === "control_after_generate")?.value;
  for (const node of made.values()) if (control) setValue(node, "control_after_generate", control);
  for (const [id, { inputs }] of Object.entries(nodes))
    for (const [name, value] of Object.entries(inputs)) {
      if (!Array.isArray(value)) continue;
      const node = made.get(id);
      const slot = node.inputs.findIndex((input) => input.name === name);
      if (made.has(value[0])) made.get(value[0]).connect(value[1], node, slot);
      else connectAlike(node, slot, studio, value[0].slice(OUTSIDE.length));
    }
  connectTargets(studio, made.get(output[0]), output[1]);
  arrange(studio, made, nodes);
  graph.remove(studio);
  app.canvas.deselectAll();
  for (const node of made.values()) app.canvas.select(node);
  app.canvas.setDirty(true, true);
}

function refuse(studio, detail) {
  app.extensionManager.toast.add({ severity: "error", summary: `${studio.title}: ${word("Open as nodes")}`, detail, life: 10_000 });
}

async function openAsNodes(studio) {
  const body = JSON.stringify({ inputs: inputsOf(studio) });
  let told;
  try {
    told = await ask(PATH, body);
  } catch (error) {
    return refuse(studio, `${word("ComfyUI does not answer")} (${error.message})`);
  }
  if (told.error) return refuse(studio, told.error);
  const unknown = Object.values(told.nodes).find(({ class_type }) => !(class_type in LiteGraph.registered_node_types));
  if (unknown) return refuse(studio, word("This ComfyUI has no node {}. Update ComfyUI.", unknown.class_type));
  if (isOnPage(studio)) undoable(() => place(studio, told)); // else another workflow was opened meanwhile
}

/** Puts the choices of menus into the server's order. The page has those that are numbers first, and so a new node would begin
 * with one LoRA, the first of the folder. */
function order(node) {
  const { required, optional } = node.constructor.nodeData.input;
  for (const [name, [, { options } = {}]] of Object.entries({ ...required, ...optional })) {
    const keys = (Array.isArray(options) ? options : []).map((one) => one?.key);
    const widget = node.widgets.find((widget) => widget.name === name);
    if (!widget || !keys.some(Number)) continue;
    widget.options.values = keys;
    widget.value = keys[0];
  }
}

app.registerExtension({
  name: "Chroma.Studio",
  nodeCreated(node) {
    if (node.comfyClass !== STUDIO) return;
    order(node);
    const button = node.addWidget("button", BUTTON, null, () => openAsNodes(node), { serialize: false });
    button.serialize = false; // not in the workflow
    button.label = word("Open as nodes");
    button.tooltip = word("The same graph as nodes on the canvas, in the place of this node; undo brings it back.");
  },
  getNodeMenuItems(node) {
    return node.comfyClass === STUDIO ? [{ content: word("Open as nodes"), callback: () => openAsNodes(node) }] : [];
  },
});
