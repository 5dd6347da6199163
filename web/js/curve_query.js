// What a node would ask the server to draw, read from its widgets and from the nodes that it is connected to.

import { shownName, sourceOf, widgetFor } from "./graph_query.js";
import { word } from "./words.js";

// `table` is the server's answer to GET /chroma/curve: node classes, and the names of their widgets. Its form is described in
// nodes/shared/scheduler_curve.py. Here are only the front end's own nodes, which the server does not know.
const PASSING = "Reroute";
const MAX_PASSED = 50; // nodes; a chain may not end

/**
 * @returns {{query: object, linked: string[]}} the body for /chroma/curve, and the inputs whose links give values that
 *   only a run knows: their widgets' values stand in for them. `query.shift` is missing where the model's is not known.
 */
export function queryOf(node, table) {
  const { curve, combo, params } = table.nodes[node.comfyClass];
  const linked = [];
  const read = (name) => {
    const value = valueOf(node, name, table);
    if (value !== undefined) return value;
    linked.push(shownName(node, name));
    return node.widgets.find((widget) => widget.name === name)?.value;
  };
  const query = { curve: curve ?? read(combo), params: {} };
  for (const name of params ?? parametersOf(node, combo)) query.params[short(name)] = read(name);
  for (const name of table.options) if (node.widgets.some((widget) => widget.name === name)) query[name] = read(name);
  for (const input of node.inputs) // a latent, whose size counts
    if (combo && input.name.startsWith(`${combo}.`) && !input.widget && input.link != null) linked.push(word("size"));
  const shift = modelShift(node, table);
  if (shift) query.shift = shift;
  return { query, linked };
}

/** The model's sigmas as /chroma/curve takes them, from the nodes before; undefined where they do not tell. */
function modelShift(node, table) {
  for (let i = 0; i < MAX_PASSED; i++) {
    node = sourceOf(node, node.inputs.find((input) => input.type === "MODEL") ?? node.inputs[0])?.node;
    if (!node) return undefined;
    if (node.type !== PASSING && !table.passing.includes(node.type)) return shiftOf(node, table);
  }
  return undefined;
}

/** The sigmas of the models that a node gives; undefined where that is not known. */
function shiftOf(node, table) {
  if (!Object.hasOwn(table.shifts, node.type)) return undefined;
  const { curve, combo, params, modes } = table.shifts[node.type];
  const shift = combo ? { ...modes[valueOf(node, combo, table)] } : { curve };
  for (const name of params ?? parametersOf(node, combo)) shift[short(name)] = valueOf(node, name, table);
  return shift.curve === undefined || Object.values(shift).includes(undefined) ? undefined : shift;
}

/** Names of the widgets that a DynamicCombo's choice has brought. */
function parametersOf(node, combo) {
  return node.widgets.map((widget) => widget.name).filter((name) => name.startsWith(`${combo}.`));
}

/** A parameter's name without that of its combo. */
function short(name) {
  return name.slice(name.indexOf(".") + 1);
}

/** A widget's value, or that of the constant it is connected to; undefined where another node gives it. */
function valueOf(node, name, table) {
  const found = widgetFor(node, name);
  if (found) return found.widget.value;
  const source = sourceOf(node, node.inputs.find((input) => input.widget?.name === name && input.link != null));
  return table.constants.includes(source?.node?.type) ? source.node.widgets?.[0]?.value : source?.value;
}
