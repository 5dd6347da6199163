// Shows what our nodes tell of their runs: the server's event "chroma.report", from nodes/shared/report.py. A node that has
// told nothing has no widget. A report stays until the next one, also while the node comes out of the server's cache.

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
    this.whole = this.view.height || this.whole; // 0 while it is not on the page
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

function keep(workflow, id, report) {
  const key = `${workflow}/${id}`;
  reports.delete(key); // so that it is the newest
  reports.set(key, report);
  if (reports.size > MAX_KEPT) reports.delete(reports.keys().next().value);
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

function onReport({ detail }) {
  const { node: id, workflow, ...report } = detail;
  const node = (workflow ?? app.rootGraph.id) === app.rootGraph.id ? nodeOf(id) : undefined; // else in another tab
  keep(workflow ?? app.rootGraph.id, id, { ...report, type: node?.type });
  if (node) show(node, report, true);
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
    api.addEventListener("chroma.report", onReport);
    restore();
  },
  afterConfigureGraph: restore,
});
