// Shows what nodes tell of their runs, from nodes/shared/report.py: beside their outputs in the host's event "executed",
// which it repeats for what comes from its cache, and as "chroma.report" after them. Of a node that fails or is refused it
// shows the error. A node that has told nothing has no widget. What was told is gone once a new run begins, unless the run
// takes that node's output from the cache.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ReportView } from "./report_view.js";

const WIDGET = "chroma_report";
const MARGIN = 6; // pixels around the widget on the canvas
const MAX_HEIGHT = 162; // pixels, 10 lines; what is longer scrolls, unless its node is made larger
const MIN_WIDTH = 320; // of a node that has nothing else to show
const ROW_GAP = 4; // that the canvas puts between widgets of a fixed height
const KEPT = "chroma.reports"; // in the browser tab's storage, so that they survive a reload of the page
const MAX_KEPT = 200;
const MAX_PROMPTS = 100; // whose workflow is remembered
const OURS = `custom_nodes.${decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3))}`; // as the server names it
const OUR_FILES = new RegExp(`custom_nodes[\\\\/]${OURS.slice(13).replace(/\W/g, "\\$&")}[\\\\/]`);
const QUEUE_MS = 60_000; // for the server's answer whether it takes a prompt

const workflows = new Map(); // prompt's id -> workflow's id, the oldest first
const told = new Set(); // keys of what the run has told that is under way
const reports = new Map(); // "workflow id/execution id" -> what ReportView shows, and the node's type, the oldest first
const widgets = new WeakMap(); // node -> its ReportWidget

class ReportWidget {
  /** room: whether the node may grow; one that was saved with a report has the room. */
  constructor(node, report, room) {
    this.node = node;
    this.view = new ReportView(() => this.fit());
    this.view.show(report);
    if (room && !node.widgets?.length && node.size[0] < MIN_WIDTH) node.setSize([MIN_WIDTH, node.size[1]]);
    this.whole = this.view.heightIn(node.size[0] - 2 * ReportView.SIDE); // pixels of all lines
    const others = node.widgets?.filter(grows) ?? [];
    const height = Math.max(node.computeSize()[1], ...others.map((widget) => widget.options.minNodeSize?.[1] ?? 0));
    const widget = node.addDOMWidget(WIDGET, WIDGET, this.view.element, {
      serialize: false, // not in the prompt
      hideOnZoom: false,
      hideInPanel: true, // the panel at the side would take the element away from the node
      margin: MARGIN,
      getMinHeight: () => this.height + 2 * MARGIN,
      getMaxHeight: () => this.whole + 2 * MARGIN,
    });
    widget.serialize = false; // not in the workflow
    const preview = node.widgets.findIndex(isPreview);
    if (preview >= 0) node.widgets.splice(preview, 0, node.widgets.pop());
    passOn(this.view);
    if (others.length) { // what the node has to spare is theirs
      widget.computeLayoutSize = undefined;
      widget.computeSize = () => [0, this.height + 2 * MARGIN - ROW_GAP];
    }
    const wanted = height + this.height + 2 * MARGIN;
    if (room && node.size[1] < wanted) node.setSize([node.size[0], wanted]);
    this.fit();
  }

  show(report) {
    this.view.show(report);
    this.fit();
  }

  /** Pixels that the node has for it at least; the rest scrolls. */
  get height() {
    return Math.min(this.whole, MAX_HEIGHT);
  }

  /** Follows the height of the text. */
  fit() {
    if (!this.view.isEmpty) this.whole = this.view.height || this.whole; // 0 while it is not on the page
    Object.assign(this.view.element.style, { minHeight: `${this.height}px`, maxHeight: `${this.whole}px` });
    this.node.setDirtyCanvas(true, true);
  }
}

/** The front end's own, of a sampler's steps: it comes and goes, so it stays below. */
function isPreview(widget) {
  return widget.name.startsWith("$$");
}

/** Whether a widget takes what its node's height has to spare. */
function grows(widget) {
  if (widget.hidden || isPreview(widget) || widget.computeSize || !widget.computeLayoutSize) return false;
  const { minHeight, maxHeight } = widget.computeLayoutSize(widget.node);
  return !(maxHeight <= minHeight);
}

function save() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify([...reports]));
  } catch {
    sessionStorage.removeItem(KEPT); // it is full: they last as long as the page
  }
}

function show(node, report, room) {
  if (widgets.has(node)) widgets.get(node).show(report);
  else widgets.set(node, new ReportWidget(node, report, room));
}

/** The node of an execution id, "10:5" for node 5 in the subgraph that node 10 stands for. */
function nodeOf(id) {
  let [graph, node] = [app.rootGraph, undefined];
  for (const part of id.split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

function isOurs(node) {
  return node?.constructor.nodeData?.python_module === OURS;
}

function tell(workflow, id, report) {
  const key = `${workflow}/${id}`;
  const node = workflow === app.rootGraph.id ? nodeOf(id) : undefined; // else in another tab
  reports.delete(key); // so that it is the newest
  reports.set(key, { ...report, type: node?.type });
  if (reports.size > MAX_KEPT) reports.delete(reports.keys().next().value);
  told.add(key);
  save();
  if (node) show(node, report, true);
}

/** Forgets what a workflow's nodes have told, except those of which `keeps` says so; they keep their room. */
function forget(workflow, keeps = () => false) {
  for (const key of [...reports.keys()]) {
    const [of, id] = key.split("/");
    if (of !== workflow || keeps(id, key)) continue;
    reports.delete(key);
    const node = workflow === app.rootGraph.id ? nodeOf(id) : undefined;
    if (node) widgets.get(node)?.show(NOTHING);
  }
  save();
}

const NOTHING = { text: "", marks: [], bar: null, level: "info" };

function errorOf(text) {
  return { text: `ERROR: ${text.trim()}`, marks: [[0, 7, "error"]], bar: null, level: "error" };
}

/** The workflow of a prompt; that on the canvas where a client of another kind has queued it. */
function workflowOf(prompt) {
  return workflows.get(prompt) ?? app.rootGraph.id;
}

const LISTENERS = {
  "chroma.queued": ({ prompt, workflow }) => {
    workflows.set(prompt, workflow);
    if (workflows.size > MAX_PROMPTS) workflows.delete(workflows.keys().next().value);
  },
  "chroma.report": ({ node, workflow, ...report }) => tell(workflow ?? app.rootGraph.id, node, report),
  execution_start: () => told.clear(),
  execution_cached: ({ prompt_id, nodes }) => forget(workflowOf(prompt_id), (id) => nodes.includes(id)),
  executed: ({ prompt_id, display_node, node, output }) => {
    const last = output?.chroma_report?.at(-1);
    if (last) tell(workflowOf(prompt_id), display_node ?? node, JSON.parse(last));
  },
  execution_success: ({ prompt_id }) => forget(workflowOf(prompt_id), (_, key) => told.has(key)),
  execution_interrupted: ({ prompt_id }) => forget(workflowOf(prompt_id), (_, key) => told.has(key)),
  execution_error: ({ prompt_id, node_id, exception_message, traceback }) => {
    const workflow = workflowOf(prompt_id);
    forget(workflow, (_, key) => told.has(key));
    const node = workflow === app.rootGraph.id ? nodeOf(node_id) : undefined;
    if (isOurs(node) || OUR_FILES.test((traceback ?? []).join(""))) tell(workflow, node_id, errorOf(exception_message));
  },
  promptQueueing: watchAnswer,
};

/** Shows what the server refuses to run: its answer to the prompt has it, and the page keeps that. */
function watchAnswer() {
  const workflow = app.rootGraph.id;
  const before = app.extensionManager.lastNodeErrors;
  const end = Date.now() + QUEUE_MS;
  const look = () => {
    const found = app.extensionManager.lastNodeErrors;
    if (found && found !== before) refuse(workflow, found);
    else if (Date.now() < end) setTimeout(look, 50);
  };
  setTimeout(look, 50);
}

function refuse(workflow, found) {
  const ours = Object.entries(found).filter(([id, { errors }]) => errors.length && isOurs(nodeOf(id)));
  if (ours.length) forget(workflow);
  for (const [id, { errors }] of ours) tell(workflow, id, errorOf(errors.map(refusal).join("\n")));
}

/** The sentence of a refusal: a node's own stands behind the host's words and the input's name. */
function refusal({ type, message, details }) {
  if (type === "custom_validation_failed" && details) return details.replace(/^\S+ - /, "");
  return [message, details].filter(Boolean).join(": ");
}

/** Gives the nodes of the workflow that was just opened what they told before. */
function restore() {
  for (const [key, report] of reports) {
    const [workflow, id] = key.split("/");
    const node = workflow === app.rootGraph.id ? nodeOf(id) : undefined;
    if (node && (report.type ?? node.type) === node.type) show(node, report, false);
  }
}

/** On the canvas the element lies above it: what it has no use for is the canvas'. */
function passOn(view) {
  const pass = (event) => {
    if (view.uses(event)) return event.stopPropagation();
    if (event.type !== "pointerdown" && !view.element.closest(".dom-widget")) return; // bubbles to the node's element
    if (event.type === "pointerdown" && event.button === 0) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.type !== "contextmenu") app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
  };
  for (const type of ["wheel", "pointerdown", "contextmenu"])
    view.element.addEventListener(type, pass, { passive: false });
}

app.registerExtension({
  name: "Chroma.Report",
  setup() {
    for (const [key, report] of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) reports.set(key, report);
    for (const [event, act] of Object.entries(LISTENERS)) api.addEventListener(event, ({ detail }) => act(detail));
    restore();
  },
  afterConfigureGraph: restore,
});
