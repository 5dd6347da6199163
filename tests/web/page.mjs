// A stand-in for ComfyUI's page, of which the pack's scripts use little: a graph, a tracker of undo, a server, elements.

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], attributes: {}, style: {}, dataset: {}, listeners: {}, hidden: false, textContent: "" });
    this.isConnected = true;
    this.classList = { toggle() {} };
  }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...given) { this.children.push(...given); }
  appendChild(given) { return this.children.push(given) && given; }
  replaceChildren(...given) { this.children = given; }
  addEventListener(type, act) { (this.listeners[type] ??= []).push(act); }
  fire(type) { this.listeners[type]?.forEach((act) => act({ type })); }
  querySelectorAll() { return []; }
  querySelector() { return null; }
  remove() {}
  /** All text in it. */
  get text() { return this.textContent + this.children.map((one) => one.text ?? one).join(this.attributes.class === "lines" ? "\n" : ""); }
}

const made = (tag) => new Element(tag);
globalThis.document = {
  head: made("head"), body: made("body"), hidden: false,
  createElement: made, createElementNS: (_, tag) => made(tag), getElementById: () => null, addEventListener() {},
};
globalThis.ResizeObserver = class { observe() {} };
for (const name of ["sessionStorage", "localStorage"]) globalThis[name] = { getItem: () => null, setItem() {}, removeItem() {} };
globalThis.LiteGraph = { registered_node_types: {} };
const looks = [];
globalThis.setInterval = (act) => looks.push(act);
export const settled = () => new Promise((done) => setTimeout(done, 20));
/** Has what looks from time to time look once, and waits for the server's answers. */
export async function look() {
  looks.forEach((act) => act());
  await settled();
}

const frames = [];
globalThis.requestAnimationFrame = (act) => frames.push(act);
/** Lets so many frames pass. */
export function passFrames(count) {
  for (let i = 0; i < count; i++) frames.splice(0).forEach((act) => act());
}
export const isWaiting = () => frames.length > 0;

export class Graph {
  constructor(id) {
    Object.assign(this, { id, nodes: [], links: new Map(), subgraphs: new Map() });
  }
  getNodeById(id) { return this.nodes.find((node) => String(node.id) === String(id)); }
  add(node) {
    node.graph = this;
    this.nodes.push(node);
    node.onAdded?.();
  }
  /** As a plain object, of the values alone. */
  serialize() {
    const values = ({ id, widgets = [] }) => ({ id, values: widgets.map((widget) => widget.value) });
    return { id: this.id, nodes: this.nodes.map(values), subgraphs: [...this.subgraphs.values()].map((one) => one.nodes.map(values)) };
  }
}

/** A node with widgets of these values. */
export function nodeOf(comfyClass, id, values = {}) {
  return {
    comfyClass, type: comfyClass, id, inputs: [], outputs: [], size: [200, 100], pos: [0, 0], mode: 0, flags: {},
    widgets: Object.entries(values).map(([name, value]) => ({ name, value, options: {} })),
    setSize(size) { this.size = size; },
    computeSize: () => [200, 100],
    setDirtyCanvas() {},
    addDOMWidget(name, type, element, options) {
      const widget = { name, type, element, options };
      this.widgets.push(widget);
      return widget;
    },
  };
}

/** What a node tells, as it is seen; null where it has told nothing. */
export const toldBy = (node) => node.widgets.find(({ name }) => name === "chroma_report")?.element.text ?? null;

const extensions = [];
const rootGraph = new Graph("a workflow");
/** Keeps steps of undo as the page does. */
export const tracker = {
  activeState: rootGraph.serialize(), undoQueue: [], changeCount: 0, _restoringState: false,
  captureCanvasState() {
    const state = app.rootGraph.serialize();
    if (JSON.stringify(state) === JSON.stringify(this.activeState)) return;
    this.undoQueue.push(this.activeState);
    this.activeState = state;
  },
};
export const app = {
  rootGraph,
  canvas: { graph: rootGraph, setDirty() {} },
  extensionManager: { setting: { get: () => "en" }, workflow: { activeWorkflow: { changeTracker: tracker }, openWorkflows: [] }, lastNodeErrors: null },
  registerExtension: (extension) => extensions.push(extension),
};
export const api = Object.assign(new EventTarget(), {
  answers: {}, // path -> what the server answers: an object; "" where it does not
  asked: [],
  status: 200,
  /** An event of the server or of the page. */
  tell(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); },
  apiURL: (path) => path,
  async fetchApi(path) {
    this.asked.push(path);
    const answer = this.answers[path];
    return { ok: Boolean(answer) && this.status < 400, status: this.status, json: async () => answer || JSON.parse("<html>") };
  },
});
globalThis.page = { app, api };

/** Has the extensions that were imported know of a node, as the page does before it stands in a graph. */
export const create = (node) => extensions.forEach((extension) => extension.nodeCreated?.(node));
/** Starts the extensions that were imported. */
export async function start() {
  for (const extension of extensions) await extension.init?.();
  for (const extension of extensions) extension.setup?.();
}
/** Opens a workflow of these nodes in the place of the other, as the page does: its tracker follows after the graph. */
export async function open(workflow, ...nodes) {
  Object.assign(rootGraph, { id: workflow.id, nodes: [], links: new Map() });
  nodes.forEach((node) => rootGraph.add(node));
  for (const extension of extensions) extension.afterConfigureGraph?.();
  await null;
  tracker.activeState = rootGraph.serialize();
  app.extensionManager.workflow.activeWorkflow = { path: workflow.path, changeTracker: tracker };
  await settled();
}
/** What the extensions add to a node's menu. */
export const menuOf = (node) => extensions.flatMap((extension) => extension.getNodeMenuItems?.(node) ?? []);
