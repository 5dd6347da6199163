// Draws a scheduler node's sigmas on the node, while its values change. The numbers are the server's.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ask } from "./ask.js";
import { queryOf } from "./curve_query.js";
import { CurveView, HEIGHT } from "./curve_view.js";
import { Pause, addElement, chain, lookAll, passOn } from "./dom_widget.js";
import { word } from "./words.js";

const PATH = "/chroma/curve";
const WIDGET = "chroma_curve";
const MARGIN = 6; // pixels around the widget on the canvas
const MAX_ANSWERS = 300; // kept
const MAX_AWAY = 2000; // frames, half a minute or less

const answers = new Map(); // the query's JSON -> {sigmas, shift}, the oldest first
const curves = new Set(); // of the nodes that stand in a graph
let watching = false;
let table = null; // which nodes have a curve and where its values stand; null if the server does not tell

/** The curve of one node: at most one question is under way, and the newest follows it. */
class Curve {
  constructor(node) {
    this.node = node;
    this.view = new CurveView();
    this.key = null; // of what is drawn, or will be when the answer is there
    this.abort = null;
    this.pause = new Pause(); // while the server is away
  }

  /** Looks whether the node's values are others than those that are drawn. */
  look() {
    if (!this.view.element.isConnected || this.node.flags?.collapsed) return;
    const { query, linked } = queryOf(this.node, table);
    const body = JSON.stringify(query);
    const key = `${body} ${linked}`;
    if (key === this.key || this.abort || this.pause.isOn) return;
    this.key = key;
    if (answers.has(body)) this.show(answers.get(body), query, linked);
    else this.ask(body, query, linked);
  }

  async ask(body, query, linked) {
    this.abort = new AbortController();
    try {
      const result = await ask(PATH, body, { signal: this.abort.signal });
      this.pause.end();
      if (!result.error) answers.set(body, result);
      if (answers.size > MAX_ANSWERS) answers.delete(answers.keys().next().value);
      this.show(result, query, linked);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.view.fail(word("ComfyUI does not answer"));
      this.key = null; // asked again
      this.pause.begin();
    } finally {
      this.abort = null;
    }
  }

  show({ sigmas, shift, error }, query, linked) {
    if (error) return this.view.fail(error);
    let [note, more] = ["", ""];
    if (shift !== null) {
      const known = Number(shift.toFixed(2));
      note = query.shift ? word("shift {}", known) : word("for shift 1");
      more = query.shift ? word("The model's shift is {}.", known) : word("Drawn for a model of shift 1; this one's is not known.");
    }
    if (linked.length) {
      note = word("{} set by link", linked.join(", ")); // there is room for one note
      more = `${word("{}: set by link, drawn with the node's own value.", linked.join(", "))} ${more}`.trim();
    }
    this.view.show(sigmas, query.steps, note, more);
  }

  /** Forgets what was drawn and what is asked. */
  reset() {
    this.abort?.abort();
    this.key = null;
    this.pause.end();
  }
}

/** Once a frame: no event of the front end tells of every way in which a value changes, in both of its renderers. */
function watch() {
  lookAll(curves, MAX_AWAY);
  watching = curves.size > 0;
  if (watching) requestAnimationFrame(watch);
}

/** Puts a drawing on a node; gives it back. */
export function addDrawing(node, view) {
  const height = () => HEIGHT + 2 * MARGIN;
  addElement(node, WIDGET, view.element, { margin: MARGIN, getMinHeight: height, getMaxHeight: height });
  passOn(view.element);
  node.setSize([node.size[0], node.computeSize()[1]]);
  return view;
}

function attach(node) {
  const curve = new Curve(node);
  addDrawing(node, curve.view);
  chain(node, "onAdded", () => {
    curves.add(curve);
    if (!watching) watch();
  });
  chain(node, "onRemoved", () => {
    curves.delete(curve);
    curve.reset();
  });
}

app.registerExtension({
  name: "Chroma.Curve",
  async init() { // before the page makes its first node
    const answer = await api.fetchApi(PATH).catch(() => null);
    if (answer?.ok) table = await answer.json();
    else console.warn(`Chroma: ${PATH} does not answer; no curves are drawn`);
  },
  setup() {
    api.addEventListener("reconnected", () => curves.forEach((curve) => curve.reset()));
  },
  nodeCreated(node) {
    if (table && Object.hasOwn(table.nodes, node.comfyClass)) attach(node);
  },
});
