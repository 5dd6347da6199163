// What every text and drawing on a node is made with: elements, a widget that holds one, the canvas' share of its events, and
// methods that call what stood in their place.

import { app } from "../../../scripts/app.js";
import { isOnPage } from "./graph_query.js";

export const MAX_HEIGHT = 162; // pixels of a text, 10 lines; what is longer scrolls

export function made(tag, attributes, text = "") {
  return filled(document.createElement(tag), attributes, text);
}

export function filled(element, attributes, text) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

/** Puts an element on a node, which is neither in the prompt nor in the workflow; gives its widget. options: its heights. */
export function addElement(node, name, element, options) {
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    hideInPanel: true, // the panel at the side would take the element away from the node
    ...options,
  });
  widget.serialize = false; // not in the workflow
  return widget;
}

/** On the canvas the element lies above it: what it has no use for is the canvas'. uses: whether it has for an event. */
export function passOn(element, uses = () => false) {
  const pass = (event) => {
    if (uses(event)) return event.stopPropagation();
    if (event.type !== "pointerdown" && !element.closest(".dom-widget")) return; // bubbles to the node's element
    if (event.type === "pointerdown" && event.button === 0) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.type !== "contextmenu") app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
  };
  for (const type of ["wheel", "pointerdown", "contextmenu"]) element.addEventListener(type, pass, { passive: false });
}

/** Calls `then` after a node's method, with the same arguments and the node as `this`. */
export function chain(node, name, then) {
  const before = node[name];
  node[name] = function (...given) {
    before?.apply(this, given);
    then.apply(this, given);
  };
}

const MAX_AWAY = 100; // looks; while a workflow is loaded, its subgraphs are not there yet
const [FIRST_MS, LONGEST_MS] = [1000, 30_000]; // of a pause

/** How long a server that does not answer is left alone: each time twice as long. */
export class Pause {
  constructor() {
    this.end();
  }

  get isOn() {
    return Date.now() < this.until;
  }

  begin() {
    this.ms = Math.min(LONGEST_MS, this.ms ? 2 * this.ms : FIRST_MS);
    this.until = Date.now() + this.ms;
  }

  end() {
    [this.ms, this.until] = [0, 0];
  }
}

/** Keeps what belongs to a node in a set while the node is in a graph. */
export function listed(node, set, one) {
  chain(node, "onAdded", () => set.add(one));
  chain(node, "onRemoved", () => set.delete(one));
}

/** Has each of such a set look at its node. The page does not tell of all that it takes away: what stays away is let go.
 * most: looks that it may be away. */
export function lookAll(set, most = MAX_AWAY) {
  for (const one of set) {
    one.away = isOnPage(one.node) ? 0 : (one.away ?? 0) + 1;
    if (!one.away) one.look();
    else if (one.away > most) set.delete(one);
  }
}
