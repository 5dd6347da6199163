// Shows what nodes tell of their runs, from nodes/shared/report.py: beside their outputs in the host's event "executed",
// which it repeats for what comes from its cache, and as "chroma.report" after them. Of a node that fails or is refused it
// shows the error. A node that has told nothing has no widget. What was told is gone once a new run begins, unless the run
// takes that node's output from the cache. The node that stands for a subgraph shows time, tokens and warnings of those in it.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { MAX_HEIGHT, addElement, passOn } from "./dom_widget.js";
import { canInsert, insertNode, isLinked, isOnPage, setValue, settableFor, shownName, undoable, widgetFor } from "./graph_query.js";
import { arrived, isOpen, isPlace, pathOnCanvas } from "./open_workflow.js";
import { listWidget, outersOf, placeInPage, summary } from "./report_outer.js";
import { ReportView } from "./report_view.js";
import { word } from "./words.js";

const WIDGET = "chroma_report";
const MARGIN = 6; // pixels around the widget on the canvas
const MIN_WIDTH = 320; // of a node that has nothing else to show
const ROW_GAP = 4; // that the canvas puts between widgets of a fixed height
const KEPT = "chroma.reports"; // in the browser tab's storage, so that they survive a reload of the page
const MAX_KEPT = 200;
const KEPT_PARTS = "chroma.parts"; // in the browser's storage, since another tab may meet the same run in the host's cache
const MAX_KEPT_PARTS = 20; // runs
const KEPT_PROMPTS = "chroma.prompts"; // in the tab's storage too: a reload does not end what is queued
const MAX_PROMPTS = 5000; // whose workflow is remembered
const OURS = `custom_nodes.${decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3))}`; // as the server names it
const OUR_FILES = new RegExp(`custom_nodes[\\\\/]${OURS.slice(13).replace(/\W/g, "\\$&")}[\\\\/]`);
const QUEUE_MS = 60_000; // for the server's answer whether it takes a prompt
const [FAILED, REFUSED] = ["failed", "refused"]; // in a run, before it

const workflows = new Map(); // id of a prompt that is queued or runs -> workflow's id, the oldest first
const paths = new Map(); // the same prompt's id -> path of the open workflow that it was queued from
// Of the run that is under way: its prompt, that one's path, ids of nodes that have begun and that come from the cache, keys of
// what was told.
const run = { prompt: null, workflow: null, path: undefined, begun: new Set(), cached: new Set(), told: new Set() };
// "workflow id/execution id" -> what ReportView shows, the oldest first; with the node's type and its values, if it was on the
// canvas, the path, and whether it came after the node, so that the host does not repeat it. An error has `failed`, and if it
// is a refusal, `before`: what stood there.
const reports = new Map();
const widgets = new WeakMap(); // node -> its ReportWidget
// Graph's and node's id -> ReportView: Nodes 2.0 goes on showing the element of a node that undo has made anew.
const views = new Map();
const PARTS = ["text", "settings"]; // of what is told before a run, as they are shown
const ahead = new WeakMap(); // node -> Map of them, each the newest
const previewed = new WeakSet(); // nodes that show these, not what a run has told
const tellings = new WeakMap(); // node -> how often a run has told something on it
const parts = new Map(); // key of a node that expands into others -> {titles, own, told, name}, the oldest first: see `join`

class ReportWidget {
  /** room: whether the node may grow; one that was saved with a report has the room. */
  constructor(node, report, room) {
    this.node = node;
    const served = [() => this.fit(), actionsOf(node)];
    const key = `${node.graph.id}/${node.id}`;
    const kept = views.get(key)?.element.isConnected ? views.get(key) : undefined; // undo makes the node anew
    kept?.serve(...served);
    this.view = kept ?? new ReportView(...served);
    views.delete(key); // so that it is the newest
    views.set(key, this.view);
    if (views.size > MAX_KEPT) views.delete(views.keys().next().value);
    this.view.show(report);
    if (room && !node.widgets?.length && node.size[0] < MIN_WIDTH) node.setSize([MIN_WIDTH, node.size[1]]);
    const measured = kept?.height || this.view.heightIn(node.size[0] - 2 * ReportView.SIDE);
    this.whole = measured; // pixels of all lines
    const others = node.widgets?.filter(grows) ?? [];
    const height = Math.max(node.computeSize()[1], ...others.map((widget) => widget.options.minNodeSize?.[1] ?? 0));
    const widget = addElement(node, WIDGET, this.view.element, {
      margin: MARGIN,
      getMinHeight: () => this.height + 2 * MARGIN,
      getMaxHeight: () => this.whole + 2 * MARGIN,
    });
    listWidget(node, widget);
    const preview = node.widgets.findIndex(isPreview);
    if (preview >= 0) node.widgets.splice(preview, 0, node.widgets.pop());
    if (!kept) passOn(this.view.element, (event) => this.view.uses(event));
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

/** What was put into a storage of the browser as a list of pairs; none where it cannot be read. */
function stored(storage, name) {
  try {
    const found = JSON.parse(storage().getItem(name) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => Array.isArray(one) && one.length === 2) : [];
  } catch {
    return []; // the browser forbids it, or another has written there
  }
}

/** Where it is full or forbidden, what would be kept lasts as long as the page. */
function store(storage, name, pairs) {
  try {
    storage().setItem(name, JSON.stringify(pairs));
  } catch {
    try {
      storage().removeItem(name);
    } catch {} // forbidden altogether
  }
}

const ofTab = () => sessionStorage; // to touch it throws where it is forbidden
const ofBrowser = () => localStorage;

function save() {
  store(ofTab, KEPT, [...reports]);
}

/** outers: the nodes that stand for the subgraphs around it, which show the same in short. */
function show(node, report, room, outers) {
  previewed.delete(node);
  put(node, report, room);
  for (const outer of outers) {
    const short = summary(outer, node, report);
    put(outer, short, room);
    placeInPage(outer, short);
  }
}

function put(node, report, room) {
  if (widgets.has(node)) widgets.get(node).show(report);
  else if (report.text) widgets.set(node, new ReportWidget(node, report, room));
}

/** Tells those who look at a node before a run whether one has told something on it since they looked last. */
export class Runs {
  constructor(node) {
    this.node = node;
    this.seen = 0;
  }

  hasToldSince() {
    const { seen } = this;
    this.seen = tellings.get(this.node) ?? 0;
    return this.seen !== seen;
  }
}

/** Shows a part of what a node tells before a run, beside its other parts; null: nothing. What a run has told stays if `stays`:
 * nobody has changed the node since. */
export function preview(node, part, report, stays = false) {
  if (!isOnPage(node)) return; // it was removed while the server was asked; some keep their graph
  const known = ahead.get(node) ?? new Map();
  ahead.set(node, known.set(part, report));
  const shown = widgets.get(node);
  const own = [...reports].find(([key, { path }]) => isOf(key, node, path))?.[1].values;
  const isSame = own === undefined || own === valuesOf(node); // nobody has changed the node since
  if (stays && isSame && shown && !shown.view.isEmpty && !previewed.has(node)) return;
  for (const [key, { path }] of [...reports]) if (isOf(key, node, path)) reports.delete(key); // it told of other values
  const whole = aheadOf(node);
  if (whole.text || shown) show(node, whole, true, outersOf(node));
  previewed.add(node);
}

/** What a node tells before a run, all parts of it. */
function aheadOf(node) {
  return inOrder(PARTS.map((one) => ahead.get(node)?.get(one)).filter(Boolean));
}

/** Several reports as one; a bar is the first's. */
function inOrder(reports) {
  const out = { ...NOTHING, marks: [], acts: [], bar: reports[0]?.bar ?? null };
  const lines = [];
  for (const { text, marks, acts = [], level } of reports) {
    out.marks.push(...marks.map(([line, ...mark]) => [lines.length + line, ...mark]));
    out.acts.push(...acts.map(([line, ...act]) => [lines.length + line, ...act]));
    lines.push(...text.split("\n"));
    out.level = worse(out.level, level);
  }
  return { ...out, text: lines.join("\n") };
}

function worse(a, b) {
  return LEVELS.indexOf(b) > LEVELS.indexOf(a) ? b : a;
}

/** The nodes that stand for the subgraphs around the node of an execution id: of its own path, though others stand for the same. */
function outersOfId(id) {
  const parts = id.split(":");
  return parts.slice(1).map((_, i) => nodeOf(parts.slice(0, i + 1).join(":"))).filter(Boolean);
}

/** The node of an execution id, "10:5" for node 5 in the subgraph that node 10 stands for. */
export function nodeOf(id) {
  let [graph, node] = [app.rootGraph, undefined];
  for (const part of id.split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

/** What can be done from a report that a node shows: see ReportView. An empty id stands for the node itself. */
function actionsOf(self) {
  const find = (id) => (id ? nodeOf(id) : self);
  const can = (id, values, insert) => {
    const node = find(id);
    if (insert && !canInsert(find, insert)) return false;
    return Boolean(node) && values.every(([name]) => settableFor(node, name));
  };
  return {
    title: () => self.title,
    can,
    linked(id, values) {
      const node = find(id);
      const names = values.map(([name]) => name).filter((name) => node && isLinked(node, name) && !settableFor(node, name));
      return names.map((name) => shownName(node, name));
    },
    go: (id) => goTo(find(id)),
    apply(id, values, insert) {
      if (!can(id, values, insert)) return false; // it could when it was told
      undoable(() => {
        values.forEach(([name, value]) => setValue(find(id), name, value));
        if (insert) goTo(insertNode(find, insert));
      });
      return true;
    },
  };
}

/** Selects a node and brings it to the middle, in the graph or subgraph that it stands in. */
function goTo(node) {
  if (!node) return;
  const { canvas } = app;
  if (node.graph !== canvas.graph) canvas.setGraph(node.graph);
  canvas.deselectAll();
  canvas.select(node);
  canvas.centerOnNode(node);
  canvas.setDirty(true, true);
}

export function isOurs(node) {
  return node?.constructor.nodeData?.python_module === OURS;
}

/** Whether a key and a path are those of a node of the workflow on the canvas. */
function isOf(key, node, path) {
  const [workflow, id] = key.split("/");
  return isHere(workflow, path) && nodeOf(id) === node;
}

/** Whether a workflow is on the canvas; two that are open may have one id. */
function isHere(workflow, path) {
  return workflow === app.rootGraph.id && isPlace(path);
}

/** What a node is set to, but for seeds: a report of other values is not shown again. */
function valuesOf(node) {
  const named = (node.widgets ?? []).filter((widget) => widget.serialize !== false && !/seed|control_after/.test(widget.name));
  return JSON.stringify(named.map(({ name }) => widgetFor(node, name)?.widget.value));
}

function tell(workflow, id, report, late = false) {
  const ofRun = workflow === run.workflow ? run.path : undefined;
  const [key, path] = [`${workflow}/${id}`, report.failed === REFUSED ? pathOnCanvas() : ofRun];
  const node = isHere(workflow, path) ? nodeOf(id) : undefined; // else in another tab
  reports.delete(key); // so that it is the newest
  reports.set(key, { ...report, late, path, type: node?.type, values: node && valuesOf(node) });
  if (reports.size > MAX_KEPT) reports.delete(reports.keys().next().value);
  run.told.add(key);
  save();
  if (!node) return;
  tellings.set(node, (tellings.get(node) ?? 0) + 1);
  show(node, report, true, outersOfId(id));
}

/** What a node and those that it has expanded into tell, as one report: the last of them first, a sampler's time and cost, then
 * of the others the first line and what stands out, then its own.
 * titles: [id, title] of the nodes in it. own: its report. told: theirs by id. */
function join({ titles, own, told }) {
  const out = { text: [], marks: [], acts: [], bar: null, level: own.level };
  const add = (line, mark) => {
    if (mark) out.marks.push([out.text.length, ...mark]);
    out.text.push(line);
  };
  const rows = [...titles].reverse().filter(([id]) => told.has(id));
  for (const [id, title] of rows) {
    const { text, marks, level } = told.get(id);
    const marked = new Map(marks.map(([line, ...mark]) => [line, mark]));
    const isFirst = id === rows[0][0];
    text.split("\n").forEach((line, i) => {
      const shown = i ? line : line.replace(/^[█░]+ /, "");
      if (isFirst || marked.has(i)) add(shown, marked.get(i));
      else if (i === 0) add(`${title}: ${shown}`, [title.length + 1, "info"]);
    });
    out.level = worse(out.level, level);
  }
  if (own.text) add(own.text);
  return { ...out, text: out.text.join("\n") };
}

/** What one of the nodes tells that another, of this id, has expanded into. */
function tellPart(workflow, id, part, report) {
  const key = `${workflow}/${id}`;
  const whole = parts.get(key);
  if (!whole) return;
  whole.told.delete(part);
  if (report) whole.told.set(part, report);
  keepParts(whole);
  tell(workflow, id, join(whole));
}

/** What the parts of nodes have told, [name of a run, [[id, report], ...]] each, the oldest first. */
function keptParts() {
  return stored(ofBrowser, KEPT_PARTS);
}

function keepParts({ name, told }) {
  const others = keptParts().filter(([one]) => one !== name);
  store(ofBrowser, KEPT_PARTS, [...others.slice(1 - MAX_KEPT_PARTS), [name, [...told]]]);
}

/** What a node itself tells; with `parts` if it has expanded, in a run of this name. What they told in that run is known again,
 * also in another workflow; else it keeps what they told before, which comes from the cache. */
function tellWhole(workflow, id, { parts: titles, run: name, ...own }, late) {
  const key = `${workflow}/${id}`;
  if (!titles) {
    parts.delete(key);
    return tell(workflow, id, own, late);
  }
  const ids = new Set(titles.map(([part]) => part));
  const before = keptParts().find(([one]) => one === name)?.[1] ?? parts.get(key)?.told ?? [];
  parts.delete(key); // so that it is the newest
  parts.set(key, { titles, own, told: new Map([...before].filter(([part]) => ids.has(part))), name });
  if (parts.size > MAX_KEPT) parts.delete(parts.keys().next().value);
  keepParts(parts.get(key));
  tell(workflow, id, join(parts.get(key)));
}

/** What a node of this id tells on the one that shows it: itself, one that has expanded into it, or one that it is a copy of. */
function tellOn(workflow, shownOn, id, report, late = false) {
  const isPart = id !== shownOn && !report.parts && parts.has(`${workflow}/${shownOn}`);
  if (isPart) tellPart(workflow, shownOn, id, report);
  else tellWhole(workflow, shownOn, report, late);
}

/** Whether what a node has told holds after a run: the run told it, or takes the node from the cache. What came after the node
 * tells of a run that was not ended by an error. An error of a run is that run's alone; a refusal holds until the next prompt. */
function holds(key, isWhole) {
  const [workflow, id] = key.split("/");
  if (run.told.has(key)) return true;
  const report = reports.get(key);
  if (report.failed) return report.failed === REFUSED;
  const isSame = !isHere(workflow, run.path) || [undefined, nodeOf(id)?.type].includes(report.type);
  return run.cached.has(id) && isSame && (isWhole || !report.late);
}

/** Forgets what the last run has made old; of a run whose start was not seen, such as before a reload, nothing is known. */
function endOf(prompt, isWhole) {
  if (run.prompt === prompt) forget(workflowOf(prompt), (_, key) => holds(key, isWhole));
  workflows.delete(prompt);
  paths.delete(prompt);
  store(ofTab, KEPT_PROMPTS, [...workflows]);
}

/** Forgets what the nodes of the running workflow have told, except those of which `keeps` says so; they keep their room. */
function forget(workflow, keeps) {
  for (const [key, { path }] of [...reports]) {
    const [of, id] = key.split("/");
    const isOthers = run.path && path && path !== run.path && isOpen(path);
    if (of !== workflow || isOthers || keeps(id, key)) continue;
    reports.delete(key);
    const node = isHere(workflow, run.path) ? nodeOf(id) : undefined;
    if (node && widgets.has(node)) show(node, NOTHING, false, outersOfId(id));
  }
  save();
}

const LEVELS = ["info", "warning", "error"]; // the most serious last
const NOTHING = { text: "", marks: [], bar: null, level: "info" };

function errorOf(text) {
  const head = word("ERROR: ");
  return { text: head + text.trim(), marks: [[0, head.length, "error"]], bar: null, level: "error", failed: FAILED };
}

/** The workflow of a prompt; that on the canvas where a client of another kind has queued it. */
export function workflowOf(prompt) {
  return workflows.get(prompt) ?? app.rootGraph.id;
}

/** The path of the open workflow that a prompt was queued from; undefined where that is not known. */
export function pathOf(prompt) {
  return paths.get(prompt);
}

const LISTENERS = {
  "chroma.queued": ({ prompt, workflow }) => {
    workflows.set(prompt, workflow);
    if (workflow === app.rootGraph.id) paths.set(prompt, pathOnCanvas());
    for (const known of [workflows, paths]) if (known.size > MAX_PROMPTS) known.delete(known.keys().next().value);
    store(ofTab, KEPT_PROMPTS, [...workflows]);
  },
  "chroma.report": ({ node, workflow = null, part = node, ...report }) =>
    tellOn(workflow ?? app.rootGraph.id, node, part, report, true),
  execution_start: ({ prompt_id }) => {
    [run.prompt, run.workflow, run.path] = [prompt_id, workflowOf(prompt_id), paths.get(prompt_id)];
    for (const one of [run.begun, run.cached, run.told]) one.clear();
  },
  execution_cached: ({ prompt_id, nodes }) => {
    nodes.forEach((id) => run.cached.add(id));
    forget(workflowOf(prompt_id), (_, key) => holds(key, true));
  },
  executed: ({ prompt_id, display_node, node, output }) => {
    const last = output?.chroma_report?.at(-1);
    if (!last) return;
    const [workflow, id, report] = [workflowOf(prompt_id), display_node ?? node, JSON.parse(last)];
    const key = `${workflow}/${id}`;
    if (run.cached.has(node) && !report.parts && reports.get(key)?.late && holds(key, true)) return; // which tells more
    tellOn(workflow, id, node, report);
  },
  progress_state: ({ prompt_id, nodes }) => { // a part that is computed anew: what it told before is old
    for (const { node_id, display_node_id, state } of Object.values(nodes)) {
      const key = `${workflowOf(prompt_id)}/${display_node_id}`;
      if (state === "running" && node_id !== display_node_id && !run.begun.has(node_id) && parts.get(key)?.told.has(node_id))
        tellPart(workflowOf(prompt_id), display_node_id, node_id, null);
      if (state === "running") run.begun.add(node_id);
    }
  },
  execution_success: ({ prompt_id }) => endOf(prompt_id, true),
  execution_interrupted: ({ prompt_id }) => endOf(prompt_id, false),
  execution_error: ({ prompt_id, node_id, exception_message, traceback }) => {
    const workflow = workflowOf(prompt_id);
    endOf(prompt_id, false);
    parts.delete(`${workflow}/${node_id}`); // the error stands alone
    const node = isHere(workflow, run.path) ? nodeOf(node_id) : undefined;
    if (isOurs(node) || OUR_FILES.test((traceback ?? []).join(""))) tell(workflow, node_id, errorOf(exception_message));
  },
  promptQueueing: watchAnswer,
  promptQueued: () => answers.look?.(true),
};

const answers = { look: null }; // what looks for the answer to the newest prompt

/** Shows what the server refuses to run: its answer to the prompt has it, and the page keeps that. Of a prompt that is taken
 * some outputs may be refused. What was refused before is asked anew. */
function watchAnswer() {
  const workflow = app.rootGraph.id;
  withdraw(workflow);
  const before = app.extensionManager.lastNodeErrors;
  const end = Date.now() + QUEUE_MS;
  const look = (isLast = false) => {
    if (answers.look !== look) return; // a newer one is watched
    const found = app.extensionManager.lastNodeErrors;
    const isNew = found && found !== before;
    if (isNew && workflow === app.rootGraph.id) refuse(workflow, found); // else its nodes are not on the canvas
    if (isNew || isLast || Date.now() >= end) answers.look = null;
    else setTimeout(look, 50);
  };
  answers.look = look;
  setTimeout(look, 50);
}

function refuse(workflow, found) {
  const ours = Object.entries(found).filter(([id, { errors }]) => errors.length && isOurs(nodeOf(id)));
  for (const [id, { errors }] of ours) {
    const text = [...new Set(errors.map((error) => refusal(error, nodeOf(id))))].join("\n");
    tell(workflow, id, { ...errorOf(text), failed: REFUSED, before: reports.get(`${workflow}/${id}`) });
  }
}

/** Takes refusals back: what nodes had told stands there again, else what they tell before a run. */
function withdraw(workflow) {
  for (const [key, { failed, before, path }] of [...reports]) {
    const [of, id] = key.split("/");
    if (of !== workflow || failed !== REFUSED || !isPlace(path)) continue;
    if (before) reports.set(key, before);
    else reports.delete(key);
    const node = nodeOf(id);
    if (!node) continue;
    show(node, before ?? aheadOf(node), false, outersOfId(id));
    if (!before) previewed.add(node);
  }
  save();
}

/** The nodes that usually give what an input takes. */
const SOURCES = {
  IMAGE: "LoadImage",
  MASK: "LoadImage",
  MODEL: "ChromaDiffusionLoader",
  CLIP: "ChromaCLIPLoader",
  VAE: "VAELoader",
  CONDITIONING: "ChromaTextEncode",
};

/** The sentence of a refusal: a node's own stands behind the host's words and the input's name. */
function refusal({ type, message, details, extra_info }, node) {
  if (type === "custom_validation_failed" && details) return details.replace(/^\S+ - /, "");
  const input = node.inputs?.find(({ name }) => name === extra_info?.input_name);
  if (type === "required_input_missing" && input) {
    const source = LiteGraph.registered_node_types[SOURCES[input.type]]?.title ?? word("a node that gives {}", input.type);
    return word("{}: nothing is connected. Connect {}", input.label ?? input.localized_name ?? details, source);
  }
  return [message, details].filter(Boolean).join(": ");
}

/** Gives the nodes of the workflow that was just opened what they told before. */
function restore() {
  for (const [key, report] of reports) {
    const [workflow, id] = key.split("/");
    const node = workflow === app.rootGraph.id ? nodeOf(id) : undefined;
    if (!node || report.type !== node.type || report.values !== valuesOf(node)) continue;
    show(node, report, false, outersOfId(id));
  }
}

/** The same of what they told while another workflow was on the canvas. */
function restoreUnseen() {
  for (const [key, report] of reports) {
    const [workflow, id] = key.split("/");
    const node = report.values === undefined && isHere(workflow, report.path) ? nodeOf(id) : undefined;
    if (!node) continue;
    Object.assign(report, { type: node.type, values: valuesOf(node) });
    show(node, report, false, outersOfId(id));
  }
}

function restoreAll() {
  restore();
  arrived(restoreUnseen);
}

app.registerExtension({
  name: "Chroma.Report",
  setup() {
    for (const [key, report] of stored(ofTab, KEPT)) reports.set(key, report);
    for (const [prompt, workflow] of stored(ofTab, KEPT_PROMPTS)) workflows.set(prompt, workflow);
    for (const [event, act] of Object.entries(LISTENERS)) api.addEventListener(event, ({ detail }) => act(detail));
    restoreAll();
  },
  afterConfigureGraph: restoreAll,
});
