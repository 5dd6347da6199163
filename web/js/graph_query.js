// Reads a node and those before it from the page's graph, as the server would get them, and sets its widgets; through the
// borders of subgraphs, and past bypassed nodes.

import { app } from "../../../scripts/app.js";

const SUBGRAPH_INPUT = -10; // the node that stands for a subgraph's inputs
const [MUTED, BYPASSED] = [2, 4]; // modes
const PRIMITIVE = "PrimitiveNode"; // the page's own: nothing but a value
const VALUES = [PRIMITIVE, "PrimitiveInt", "PrimitiveFloat", "PrimitiveBoolean", "PrimitiveString", "PrimitiveStringMultiline"];
const [GETTER, SETTER] = ["GetNode", "SetNode"]; // of KJNodes: they pass on what stands under their name
const MAX_NODES = 80;
const FIRST = ["LATENT", "MODEL", "CHROMA_SETTINGS"]; // of the inputs, the last of these before all others: more nodes are left out
const [TITLE, GAP, ROOM] = [30, 40, 150]; // pixels: of a node's title, between nodes, below one that will tell of its run
const MAX_MOVES = 100;
const MAX_TEXT = 400; // characters of a value; names of files are shorter

/** Whether a node stands in the workflow on the canvas: one that was replaced with its graph may keep that. */
export function isOnPage(node) {
  const { graph } = node;
  const isHere = graph && (graph === app.rootGraph || app.rootGraph.subgraphs?.get(graph.id) === graph);
  return Boolean(isHere) && graph.getNodeById(node.id) === node;
}

/** The one node that stands for a subgraph; undefined where several do, or none. */
export function standingFor(subgraph) {
  const graphs = [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])];
  const found = graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph));
  return found.length === 1 ? found[0] : undefined;
}

/** Whether a node stands in a subgraph that several nodes stand for: its inputs then have several values. */
export function isShared(node) {
  return node.graph !== app.rootGraph && !standingFor(node.graph);
}

export function linkOf(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** The input whose source a bypassed node passes on at a slot: the one beside it, else the first of its type; undefined where nothing comes. */
function passedOn(node, slot) {
  const type = node.outputs[slot]?.type;
  const beside = node.inputs[slot];
  if (beside?.type === type && beside.link != null) return beside;
  return node.inputs.find((one) => one.type === type && one.link != null);
}

/** What an input gets: {node, slot}, {widget} of the subgraph's outer node, or {value} of a node of the page that is nothing else;
 * undefined where nothing comes. */
export function sourceOf(node, input, depth = 0) {
  const link = input?.link == null ? undefined : linkOf(node.graph, input.link);
  if (!link || depth > MAX_NODES) return undefined;
  if (Number(link.origin_id) === SUBGRAPH_INPUT) { // some front ends keep it as text
    const outer = standingFor(node.graph);
    const outside = outer?.inputs[link.origin_slot];
    if (!outside) return undefined;
    if (outside.link != null) return sourceOf(outer, outside, depth + 1);
    const widget = outside.widget && widgetOf(outer, outside.widget.name);
    return widget ? { widget, owner: outer } : undefined;
  }
  const source = node.graph.getNodeById(link.origin_id);
  if (!source || source.mode === MUTED) return undefined;
  if (source.mode === BYPASSED) return sourceOf(source, passedOn(source, link.origin_slot), depth + 1);
  if (source.subgraph) {
    const inner = source.subgraph.outputNode ?? {};
    const id = source.subgraph.outputs[link.origin_slot]?.linkIds?.[0];
    const last = id == null ? undefined : linkOf(source.subgraph, id);
    return last ? sourceOf({ graph: source.subgraph, ...inner, inputs: [] }, { link: id }, depth + 1) : undefined;
  }
  if (source.type === PRIMITIVE) return source.widgets?.[0] && { value: source.widgets[0].value };
  if (source.type === GETTER) return sourceOf(...setterOf(source), depth + 1);
  return { node: source, slot: link.origin_slot };
}

/** The node from which a getter has what it gives, and its input. What the pack itself has for this tells people of what is
 * missing, and so is for a prompt that is queued. */
function setterOf(getter) {
  const name = getter.widgets?.[0]?.value;
  const setter = getter.graph.nodes.find((node) => node.type === SETTER && node.widgets?.[0]?.value === name);
  return [setter, setter?.inputs[0]];
}

/** The node and those before it: {graph, node} with numbers of its own for ids. */
export function graphOf(node) {
  const ids = new Map();
  const graph = {};
  const add = (one) => {
    if (ids.has(one) || ids.size >= MAX_NODES) return ids.get(one);
    const id = String(ids.size + 1);
    ids.set(one, id);
    const inputs = {};
    for (const { name, value, serialize, options } of one.widgets ?? []) {
      if (options?.serialize === false || (serialize === false && options?.serialize === undefined)) continue;
      if (typeof value === "string") inputs[name] = value.slice(0, MAX_TEXT);
      else if (typeof value === "number" || typeof value === "boolean") inputs[name] = value;
    }
    const rank = ({ type }) => FIRST.indexOf(type);
    for (const input of [...(one.inputs ?? [])].sort((a, b) => rank(b) - rank(a))) {
      const source = sourceOf(one, input);
      const value = source?.widget ? source.widget.value : source?.value; // none of a menu without files
      if (value !== undefined) inputs[input.widget?.name ?? input.name] = value;
      else if (source?.node) {
        const before = add(source.node);
        if (before) inputs[input.name] = [before, source.slot];
      }
    }
    graph[id] = { class_type: one.comfyClass ?? one.type, inputs };
    return id;
  };
  return { graph, node: add(node) };
}

/** The widget that a node's value of this name is set with: its own, or one of the subgraph's outer node; undefined where
 * another node gives it. */
export function widgetFor(node, name) {
  const input = node.inputs?.find((one) => (one.widget?.name ?? one.name) === name && one.link != null);
  if (!input) {
    const widget = widgetOf(node, name);
    return widget && { widget, owner: node };
  }
  const source = sourceOf(node, input);
  return source?.widget && source;
}

function inputOf(node, name) {
  return node.inputs?.find((one) => (one.widget?.name ?? one.name) === name);
}

export function isLinked(node, name) {
  return inputOf(node, name)?.link != null;
}

/** What the page calls an input. */
export function shownName(node, name) {
  const input = inputOf(node, name);
  return input?.label ?? input?.localized_name ?? name.slice(name.indexOf(".") + 1);
}

/** The widget of `widgetFor`, else that of a node which is nothing but this value and gives it to no other input. */
export function settableFor(node, name) {
  const found = widgetFor(node, name);
  const link = found || !isLinked(node, name) ? undefined : linkOf(node.graph, inputOf(node, name).link);
  const source = link && node.graph.getNodeById(link.origin_id);
  const isAlone = source && !source.mode && VALUES.includes(source.type) && source.outputs[link.origin_slot]?.links?.length === 1;
  return isAlone && source.widgets?.length ? { widget: source.widgets[0], owner: source } : found;
}

/** Sets a node's value as a person would. returns: whether it could be set. */
export function setValue(node, name, value) {
  const found = settableFor(node, name);
  if (!found) return false;
  const { widget, owner } = found;
  widget.value = value;
  widget.callback?.(value, app.canvas, owner);
  owner.setDirtyCanvas?.(true, true);
  return true;
}

/** Connects an input to what another input in the same graph is connected to, a subgraph's border too. */
export function connectAlike(node, slot, other, name) {
  const { graph } = other;
  const link = linkOf(graph, other.inputs.find((input) => input.name === name).link);
  if (Number(link.origin_id) === SUBGRAPH_INPUT) graph.inputs[link.origin_slot].connect(node.inputs[slot], node);
  else graph.getNodeById(link.origin_id).connect(link.origin_slot, node, slot);
}

/** Moves a node down or up from where it stands, to the nearest place where it lies on no other. */
function toFreePlace(node) {
  const [x, y] = node.pos;
  const boxes = node.graph.nodes.filter((other) => other !== node).map(({ pos, size }) => [...pos, ...size]);
  const [width, height] = [node.size[0], node.size[1] + ROOM];
  const isFree = (top) => boxes.every(([left, above, w, h]) =>
    x >= left + w + GAP || left >= x + width + GAP || top - TITLE >= above + h || above - TITLE >= top + height);
  for (let step = 0; step < MAX_MOVES; step++)
    for (const top of [y + step * GAP, y - step * GAP]) if (isFree(top)) return void (node.pos = [x, top]);
}

/** What is needed to insert a node: see `advice/finding.py`, Insert. find: id -> node. null where it does not go: a node is
 * gone, or the links come from several places or lie in several graphs. */
function placesOf(find, { kind, into, also }) {
  if (!(kind in LiteGraph.registered_node_types)) return null;
  const inputOf = ([id, name]) => {
    const node = find(id);
    const input = node?.inputs?.find((one) => one.name === name);
    const link = input?.link == null ? undefined : linkOf(node.graph, input.link);
    return link && { node, name, link };
  };
  const before = (place) => { // the first of the bypassed nodes between, so that it acts where they are switched on again
    for (let steps = 0; place && steps < MAX_NODES; steps++) {
      const { graph } = place.node;
      const source = graph.getNodeById(place.link.origin_id);
      if (source?.mode !== BYPASSED) return place;
      const input = passedOn(source, place.link.origin_slot);
      place = input && { node: source, name: input.name, link: linkOf(graph, input.link) };
    }
    return undefined;
  };
  const found = into.map((place) => before(inputOf(place)));
  const isFirst = (one, i) => found.findIndex((other) => other?.link === one?.link) === i; // several behind one bypassed node
  const [takers, given] = [found.filter(isFirst), also.map(([, place]) => inputOf(place))];
  const all = [...takers, ...given];
  if (!takers.length || all.some((one) => !one || one.node.graph !== all[0].node.graph)) return null;
  const same = ({ link }) => link.origin_id === all[0].link.origin_id && link.origin_slot === all[0].link.origin_slot;
  return takers.every(same) ? { takers, given } : null;
}

export function canInsert(find, insert) {
  return placesOf(find, insert) !== null;
}

/** Puts a node into links. returns: it; null where it does not go. */
export function insertNode(find, insert) {
  const places = placesOf(find, insert);
  if (!places) return null;
  const { takers, given } = places;
  const { graph } = takers[0].node;
  const node = LiteGraph.createNode(insert.kind);
  graph.add(node);
  const slotOf = (name) => node.inputs.findIndex((input) => input.name === name);
  for (const [name, value] of insert.values) setValue(node, name, value);
  connectAlike(node, slotOf(insert.through), takers[0].node, takers[0].name);
  given.forEach((from, i) => connectAlike(node, slotOf(insert.also[i][0]), from.node, from.name));
  for (const { node: taker, name } of takers)
    node.connect(0, taker, taker.inputs.findIndex((input) => input.name === name));
  const first = takers.reduce((a, b) => (b.node.pos[0] < a.node.pos[0] ? b : a)).node;
  node.pos = [first.pos[0] - node.size[0] - GAP, first.pos[1]];
  toFreePlace(node);
  graph.setDirtyCanvas?.(true, true);
  return node;
}

const tracker = () => app.extensionManager.workflow?.activeWorkflow?.changeTracker;
const look = () => (tracker()?.captureCanvasState ?? tracker()?.checkState)?.call(tracker());

/** Does something as one step of the page's undo. */
export function undoable(act) {
  look(); // what was changed before is a step of its own
  act();
  look();
}

const SETTLED_MS = [100, 300, 600]; // after which a node has the size that its new text needs

const isSafe = (mine, node) => // else the page is in another workflow, or on the way there
  mine?.activeState?.id === app.rootGraph.id && mine === tracker() && !mine.changeCount && !mine._restoringState && isOnPage(node);
const now = () => JSON.parse(JSON.stringify(app.rootGraph.serialize())); // as the page does
const unsized = (state) => JSON.stringify(state, (key, value) => (key === "size" || key === "ds" ? undefined : value));

/** Does something to a node that follows from what a person did, as a part of that step of the page's undo. */
export function unrecorded(node, act) {
  look();
  act();
  const mine = tracker();
  const include = () => {
    const state = isSafe(mine, node) && now();
    if (state && unsized(state) === unsized(mine.activeState)) mine.activeState = state; // else a person has done more
  };
  if (isSafe(mine, node)) mine.activeState = now();
  for (const ms of SETTLED_MS) setTimeout(include, ms);
}

/** The same where a person may be in the middle of it, as of a drag: what the page has not recorded yet, it will with this. */
export function joined(node, act) {
  const mine = tracker();
  const isRecorded = isSafe(mine, node) && unsized(now()) === unsized(mine.activeState);
  act();
  if (isRecorded) mine.activeState = now();
}
