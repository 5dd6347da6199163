// A report as an element of the page, coloured by the front end's own variables, so that it follows its theme.

import { made } from "./dom_widget.js";
import { word } from "./words.js";

const PADDING = 6; // pixels above and below the text
const NEAR = 0.9; // of a bar, from where on it warns

const STYLE = `
.chroma-report {
  --report-text: var(--component-node-foreground, var(--input-text));
  --report-ground: var(--component-node-widget-background, var(--comfy-input-bg));
  --report-shade: 55%; /* of the text's colour in that of words, so that they can be read */
  position: relative; box-sizing: border-box; min-width: 0;
}
.dark-theme .chroma-report { --report-shade: 20%; }
.dom-widget > .chroma-report { /* on the canvas: as wide and as coloured as the widgets painted there */
  --report-text: var(--input-text);
  --report-ground: var(--comfy-input-bg);
  margin: 0 9px; width: calc(100% - 18px) !important;
}
.chroma-report .panel {
  position: absolute; inset: 0; box-sizing: border-box; padding: ${PADDING}px 10px; border-radius: 8px;
  overflow: hidden auto; overscroll-behavior: contain; scrollbar-width: thin;
  background: var(--report-ground); color: var(--report-text);
  font: 11px/15px Inter, Arial, sans-serif; font-variant-numeric: tabular-nums;
  user-select: text; cursor: text; outline: none;
}
.chroma-report .panel.more::after { /* fades the last line, where there is more below */
  content: ""; display: block; position: sticky; bottom: -${PADDING}px; height: 20px; margin: -20px 0 0;
  pointer-events: none; background: linear-gradient(transparent, var(--report-ground));
}
.chroma-report.empty .panel { visibility: hidden; }
.chroma-report .panel:focus-visible { box-shadow: inset 0 0 0 1px var(--primary-background, #0b8ce9); }
.chroma-report .line { overflow-wrap: anywhere; opacity: 0.72; }
.chroma-report .line:first-child, .chroma-report .line.marked { opacity: 1; }
.chroma-report .line:empty { height: 7px; }
.chroma-report .info { --report-level: var(--primary-background, #0b8ce9); }
.chroma-report .warning { --report-level: var(--warning-background, #fd9903); }
.chroma-report .error { --report-level: var(--error-text, #f44); }
.chroma-report .head {
  color: color-mix(in oklab, var(--report-level), var(--report-text) var(--report-shade)); font-weight: 600;
}
.chroma-report .panel.warning, .chroma-report .panel.error {
  border-left: 3px solid var(--report-level); padding-left: 9px;
}
.chroma-report button { font: inherit; padding: 0; border: 0; background: none; cursor: pointer; user-select: none; }
.chroma-report button.go { white-space: pre; }
.chroma-report button.go:hover { text-decoration: underline; }
.chroma-report button.apply {
  padding: 0 7px; border-radius: 4px; color: var(--report-text);
  background: color-mix(in oklab, var(--primary-background, #0b8ce9) 45%, var(--report-ground));
}
.chroma-report button:focus-visible { outline: 1px solid var(--primary-background, #0b8ce9); }
.chroma-report button.apply:disabled { opacity: 0.6; cursor: default; }
.chroma-report .bar {
  height: 4px; margin: 3px 0 5px; border-radius: 2px; overflow: hidden;
  background: color-mix(in oklab, var(--report-text) 18%, transparent);
}
.chroma-report .bar > div { height: 100%; min-width: 4px; border-radius: 2px; background: var(--report-level); }
`;

export class ReportView {
  static SIDE = 15; // pixels from the node's side

  /** resized: called when the text needs another height. actions: {can, linked, go, apply}, each called with a node's id, all
   * but `go` with values to set too; `linked` gives those that another node sets. */
  constructor(resized, actions) {
    this.serve(resized, actions);
    if (!document.getElementById("chroma-report-style"))
      document.head.append(made("style", { id: "chroma-report-style" }, STYLE));
    this.lines = made("div", { class: "lines" });
    this.panel = made("div", { class: "panel", tabindex: 0, role: "region" });
    this.panel.dataset.captureWheel = true; // the front end's word for: scrolls once it was clicked
    this.panel.append(this.lines);
    this.element = made("div", { class: "chroma-report" });
    this.element.append(this.panel);
    const observer = new ResizeObserver(() => {
      this.resized();
      this.fade();
    });
    for (const element of [this.lines, this.panel]) observer.observe(element);
    this.panel.addEventListener("scroll", () => this.fade());
  }

  /** Whom it serves; given as to the constructor. */
  serve(resized, actions) {
    Object.assign(this, { resized, actions });
  }

  /**
   * text: lines. acts: [line, node's id, values, node to insert] of those with which something can be done. marks: [line, length of its head, level] of those that stand out. bar: {value, max} or null.
   * level: of the whole; info, warning or error.
   */
  show({ text, marks, bar, level, acts = [] }) {
    this.isEmpty = !text; // it is not seen, and keeps its room
    this.element.classList.toggle("empty", this.isEmpty);
    this.panel.className = `panel ${level}`;
    this.panel.setAttribute("aria-label", [word("Report"), this.actions?.title?.()].filter(Boolean).join(": "));
    this.panel.scrollTop = 0;
    const shown = bar ? text.replace(/^[█░]+ /, "") : text; // a bar for those who see the text alone
    const marked = new Map(marks.map(([line, ...mark]) => [line, mark]));
    this.lines.replaceChildren(...shown.split("\n").map((line, i) => lineOf(line, ...(marked.get(i) ?? []))));
    for (const [line, ...act] of acts) this.addAction(this.lines.children[line], ...act);
    if (bar) this.lines.firstChild.after(barOf(bar));
  }

  /** Makes the head of a line a way to its node, or adds a button that sets the values or inserts a node. */
  addAction(line, node, values, insert) {
    const { can, linked, go, apply } = this.actions ?? {};
    const byLink = () => {
      const names = linked?.(node, values) ?? [];
      return names.length ? word("{} set by link", names.join(", ")) : "";
    };
    if (!line) return;
    if (!can?.(node, values, insert)) {
      if (byLink()) line.append(" ", made("button", { class: "apply", type: "button", disabled: "" }, byLink()));
      return;
    }
    const head = line.querySelector(".head");
    if (node && head) {
      const way = made("button", { class: "go head", type: "button", title: word("Go to the node") }, head.textContent);
      way.addEventListener("click", () => go(node));
      head.replaceWith(way);
    }
    if (values.length || insert) {
      const button = made("button", { class: "apply", type: "button" }, word("Apply"));
      const added = insert ? [word("Inserts {}", LiteGraph.registered_node_types[insert.kind].title)] : [];
      button.title = [...values.map(([name, value]) => `${name}: ${value}`), ...added].join("\n");
      button.addEventListener("click", () => {
        const isDone = apply(node, values, insert);
        if (!isDone && !byLink()) return;
        button.textContent = isDone ? word("Applied") : byLink();
        button.disabled = true;
      });
      line.append(" ", button);
    }
    for (const button of line.querySelectorAll("button"))
      for (const type of ["pointerdown", "pointerup", "mousedown", "click", "dblclick"])
        button.addEventListener(type, (event) => event.stopPropagation()); // it neither drags nor selects the node
  }

  fade() {
    const { scrollTop, scrollHeight, clientHeight } = this.panel;
    this.panel.classList.toggle("more", scrollHeight - clientHeight - scrollTop > 1);
  }

  /** Pixels that the element needs to show all; 0 while it is not on the page. */
  get height() {
    return this.lines.offsetHeight && this.lines.offsetHeight + 2 * PADDING;
  }

  /** The same if it were on the page, so many pixels wide. */
  heightIn(width) {
    const place = made("div", { style: `position: absolute; visibility: hidden; width: ${width}px` });
    place.append(this.element);
    document.body.append(place);
    const height = this.height;
    place.remove();
    this.element.remove();
    return height;
  }

  /** Whether an event of the mouse is for the text: it scrolls it, or opens the menu with which to copy it. */
  uses(event) {
    const selection = getSelection();
    if (event.type === "contextmenu") return !selection.isCollapsed && selection.containsNode(this.lines, true);
    if (event.type !== "wheel" || event.ctrlKey || event.metaKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
      return false;
    return this.panel.scrollHeight > this.panel.clientHeight;
  }
}

function lineOf(text, length = 0, level = "") {
  const line = made("div", { class: level ? `line marked ${level}` : "line" });
  if (length) line.append(made("span", { class: "head" }, text.slice(0, length)));
  line.append(text.slice(length));
  return line;
}

function barOf({ value, max }) {
  const level = value > max ? "error" : value >= NEAR * max ? "warning" : "info";
  const bar = made("div", {
    class: `bar ${level}`, role: "meter", "aria-valuemin": 0, "aria-valuemax": max, "aria-valuenow": value,
    "aria-label": word("{} of {}", value, max),
  });
  bar.append(made("div", { style: `width: ${Math.min(1, value / max) * 100}%` }));
  return bar;
}
