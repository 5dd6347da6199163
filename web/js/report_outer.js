// What nodes of a subgraph tell, in short on the node that stands for it. The front end makes that node's widgets from its inputs
// alone: the report is listed behind them. In Nodes 2.0 a page of 1.47 does not show what is listed so, and it is put into the
// node's element; one of 1.58 does.

import { app } from "../../../scripts/app.js";
import { MAX_HEIGHT } from "./dom_widget.js";
import { isOnPage, standingFor } from "./graph_query.js";
import { ReportView } from "./report_view.js";

const LOOK_MS = 300; // between two looks whether the page has made the node's element anew

const within = new WeakMap(); // node that stands for a subgraph -> Map of a node in it -> what that one tells
const inPage = new Map(); // the same -> its ReportView in Nodes 2.0

/** What the nodes of a subgraph tell in short, one of them anew: of each its first line and what warns; samplers first, as they
 * have the time. */
export function summary(outer, inner, report) {
  if (!within.has(outer)) within.set(outer, new Map());
  const reports = within.get(outer).set(inner, report);
  const samples = (node) => Number(node.outputs?.some((output) => output.type === "LATENT"));
  const told = [...reports].filter(([node, { text }]) => text && node.graph);
  told.sort(([a], [b]) => samples(b) - samples(a) || Number(a.id) - Number(b.id));
  const [lines, marks, levels] = [[], [], ["info"]];
  for (const [node, report] of told) {
    const own = report.text.replace(/^[█░]+ /, "").split("\n");
    const marked = new Map(report.marks.map(([line, ...mark]) => [line, mark]));
    own.forEach((text, i) => {
      const [length, level] = marked.get(i) ?? [0, "info"];
      const isFirst = i === 0;
      if (!isFirst && level === "info" && !text.startsWith("expected: ")) return;
      const name = isFirst ? `${node.title}: ` : "";
      if (name || length) marks.push([lines.length, name.length + (level === "info" ? 0 : length), level]);
      lines.push(name + text);
      levels.push(level);
    });
  }
  const level = ["error", "warning", "info"].find((one) => levels.includes(one));
  return { text: lines.join("\n"), marks, bar: null, level };
}

/** The nodes that stand for the subgraphs around a node, as far as one alone does. */
export function outersOf(node) {
  const outers = [];
  for (let outer = standingFor(node.graph); outer; outer = standingFor(outer.graph)) outers.push(outer);
  return outers;
}

/** Has a subgraph's node list a widget that belongs to none of its inputs. */
export function listWidget(node, widget) {
  const found = Object.getOwnPropertyDescriptor(node, "widgets");
  if (!node.subgraph || !found?.configurable || !found.get || node.widgets.includes(widget)) return;
  Object.defineProperty(node, "widgets", { ...found, get: () => [...found.get.call(node), widget] });
}

/** Shows a report in the element that stands for a node in Nodes 2.0, where the page does not show it by itself. */
export function placeInPage(node, report) {
  if (!inPage.has(node)) {
    if (!report.text) return;
    if (!inPage.size) setTimeout(look, LOOK_MS);
    const view = new ReportView(() => fit(view));
    Object.assign(view.element.style, { margin: "0 12px", pointerEvents: "auto", flex: "none" });
    inPage.set(node, view);
  }
  const view = inPage.get(node);
  view.show(report);
  view.element.hidden = view.isEmpty;
  place(node, view);
  fit(view);
}

function fit(view) {
  const height = view.height;
  if (height) view.element.style.height = `${Math.min(height, MAX_HEIGHT)}px`;
}

function place(node, view) {
  const body = isOnPage(node) && node.graph === app.canvas.graph && document.querySelector(`[data-testid="node-body-${node.id}"]`);
  const isShown = body && [...body.querySelectorAll(".chroma-report")].some((one) => one !== view.element);
  if (!body || isShown) view.element.remove();
  else if (view.element.parentElement !== body) body.append(view.element);
}

function look() {
  for (const [node, view] of inPage) {
    place(node, view);
    if (!isOnPage(node)) inPage.delete(node);
  }
  if (inPage.size) setTimeout(look, LOOK_MS);
}
