// A schedule as a drawing: an element of the page, coloured by the front end's own variables, so that it follows its theme.

import { filled, made } from "./dom_widget.js";
import { word } from "./words.js";

export const HEIGHT = 110; // pixels
const MARGIN = { left: 45, right: 50, top: 10, bottom: 8 }; // of the plot, for the numbers beside it
const MIN_DOT_GAP = 3.2; // pixels between steps from which on each sigma has a dot
const LINE_HEIGHT = 10; // of the numbers

const STYLE = `
.chroma-curve {
  --curve-line: color-mix(in oklab, var(--primary-background, #0b8ce9), var(--curve-text) 30%);
  --curve-text: var(--component-node-foreground, var(--input-text));
  --curve-ground: var(--component-node-widget-background, var(--comfy-input-bg));
  min-height: ${HEIGHT}px; max-height: ${HEIGHT}px; box-sizing: border-box; min-width: 0;
}
.dom-widget > .chroma-curve { /* on the canvas: as wide and as coloured as the widgets painted there */
  --curve-text: var(--input-text);
  --curve-ground: var(--comfy-input-bg);
  padding: 0 9px;
}
.chroma-curve .panel {
  height: 100%; min-height: inherit; box-sizing: border-box; padding: 6px 0 0; border-radius: 8px;
  display: flex; flex-direction: column; overflow: hidden; position: relative;
  background: var(--curve-ground); color: var(--curve-text);
  font: 11px/14px Inter, Arial, sans-serif; font-variant-numeric: tabular-nums; cursor: default; user-select: none;
}
.chroma-curve .head { display: flex; justify-content: space-between; gap: 6px; padding: 0 10px; white-space: nowrap; }
.chroma-curve .note { opacity: 0.72; overflow: hidden; text-overflow: ellipsis; }
.chroma-curve svg { display: block; width: 100%; flex: 1; min-height: 0; }
.chroma-curve text { fill: var(--curve-text); font-size: 10px; dominant-baseline: central; }
.chroma-curve .faint { opacity: 0.72; }
.chroma-curve .axis { stroke: var(--curve-text); stroke-opacity: 0.22; shape-rendering: crispEdges; }
.chroma-curve .half { stroke: var(--curve-text); stroke-opacity: 0.4; stroke-dasharray: 2 3; shape-rendering: crispEdges; }
.chroma-curve .line { fill: none; stroke: var(--curve-line); stroke-width: 1.5; stroke-linejoin: round; }
.chroma-curve .area { fill: var(--curve-line); fill-opacity: 0.1; }
.chroma-curve .area.above { fill-opacity: 0.26; }
.chroma-curve .dot { fill: var(--curve-line); }
.chroma-curve .pointed { fill: var(--curve-line); fill-opacity: 0.35; }
.chroma-curve .problem {
  position: absolute; inset: 0; padding: 8px 12px; display: flex; align-items: center; justify-content: center;
  text-align: center; white-space: normal; overflow: auto;
  color: color-mix(in oklab, var(--error-text, #f44), var(--curve-text) 35%);
}
.chroma-curve [hidden] { display: none; }
`;

/** A sigma in few characters. */
export function short(sigma) {
  if (sigma >= 0.01 || sigma === 0) return sigma.toFixed(3);
  return sigma >= 0.001 ? sigma.toFixed(4) : sigma.toExponential(1);
}

/** The figures of a schedule that was asked to have so many steps. */
export function figures(sigmas, steps) {
  const num = sigmas.length - 1;
  if (num < 1) return word("no steps");
  const above = sigmas.filter((sigma) => sigma > 0.5).length;
  return word(num > 1 ? "{} steps, {} above 0.5" : "{} step, {} above 0.5", `${num}${num < steps ? `/${steps}` : ""}`, above);
}

export class CurveView {
  constructor() {
    if (!document.getElementById("chroma-curve-style"))
      document.head.append(made("style", { id: "chroma-curve-style" }, STYLE));
    this.figures = made("span", { class: "figures" });
    this.note = made("span", { class: "note" });
    this.svg = drawn("svg", { role: "img" });
    this.problem = made("div", { class: "problem", role: "alert", hidden: "" });
    const head = made("div", { class: "head" });
    head.append(this.figures, this.note);
    const panel = made("div", { class: "panel" });
    panel.append(head, this.svg, this.problem);
    this.element = made("div", { class: "chroma-curve" });
    this.element.append(panel);
    this.sigmas = [];
    this.steps = 0;
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
  }

  /** Draws a schedule that was asked to have so many steps; `note` is a word on what it holds for, `more` a sentence. */
  show(sigmas, steps, note, more) {
    Object.assign(this, { sigmas, steps });
    this.problem.hidden = true;
    this.note.textContent = note;
    this.note.title = more;
    this.draw();
  }

  /** Shows a line of text in place of the schedule. */
  fail(text) {
    Object.assign(this, { sigmas: [], steps: 0 });
    this.note.textContent = this.note.title = "";
    this.draw();
    this.problem.textContent = text;
    this.problem.hidden = false;
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    const { sigmas, steps, svg } = this;
    const num = sigmas.length - 1;
    svg.replaceChildren();
    const failed = !this.problem.hidden || !steps;
    this.figures.textContent = failed ? "" : figures(sigmas, steps);
    if (failed || !width || !height) return;
    const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
    const gap = (right - left) / Math.max(num, 1);
    const x = (step) => left + gap * step;
    const y = (sigma) => bottom - (bottom - top) * Math.min(sigma, 1);
    this.plot = { left, gap, top, bottom };

    const told = figures(sigmas, steps);
    const curve = num > 0 ? word("Sigmas: {}, from {} to {}, then 0.", told, short(sigmas[0]), short(sigmas[num - 1])) : told;
    const label = [curve, this.note.title].filter(Boolean).join(" ");
    svg.setAttribute("aria-label", label);
    svg.append(drawn("title", {}, label));
    svg.append(drawn("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    svg.append(drawn("line", { class: "half", x1: left, x2: right, y1: y(0.5), y2: y(0.5) }));
    if (num < 1) return;

    const above = sigmas.filter((sigma) => sigma > 0.5).length;
    svg.append(drawn("path", { class: "area above", d: area(0, above) }));
    svg.append(drawn("path", { class: "area", d: area(above, num) }));
    svg.append(drawn("path", { class: "line", d: stairs(0, num) + `V${bottom}` }));
    if (gap >= MIN_DOT_GAP) {
      const r = Math.min(2.5, gap / 3);
      for (let i = 0; i <= num; i++) svg.append(drawn("circle", { class: "dot", cx: x(i), cy: y(sigmas[i]), r }));
    }

    const first = y(sigmas[0]);
    svg.append(drawn("text", { x: left - 7, y: first, "text-anchor": "end" }, short(sigmas[0])));
    if (Math.abs(first - y(0.5)) >= LINE_HEIGHT)
      svg.append(drawn("text", { class: "faint", x: left - 7, y: y(0.5), "text-anchor": "end" }, "0.5"));
    const last = y(sigmas[num - 1]);
    if (num > 1) svg.append(drawn("text", { x: right + 7, y: last }, short(sigmas[num - 1])));
    this.marker = svg.appendChild(drawn("rect", { class: "pointed", width: gap, visibility: "hidden" }));

    function stairs(from, to) {
      let path = `M${x(from)} ${y(sigmas[from])}`;
      for (let i = from; i < to; i++) path += `${i > from ? `V${y(sigmas[i])}` : ""}H${x(i + 1)}`;
      return path;
    }
    function area(from, to) {
      return from < to ? `${stairs(from, to)}V${bottom}H${x(from)}Z` : "";
    }
  }

  /** Tells of the step under the pointer in place of the figures. */
  point(event) {
    const num = this.sigmas.length - 1;
    if (num < 1 || !this.marker) return;
    const { left, gap, bottom, top } = this.plot;
    const box = this.svg.getBoundingClientRect(); // scaled by the canvas' zoom
    const at = event && ((event.clientX - box.left) * this.svg.clientWidth) / box.width;
    const i = event ? Math.floor((at - left) / gap) : -1;
    const inside = i >= 0 && i < num;
    this.marker.setAttribute("visibility", inside ? "visible" : "hidden");
    this.figures.textContent = inside
      ? word("step {}: {} to {}", i + 1, short(this.sigmas[i]), short(this.sigmas[i + 1]))
      : figures(this.sigmas, this.steps);
    if (!inside) return;
    const height = (bottom - top) * Math.min(this.sigmas[i], 1);
    for (const [key, value] of Object.entries({ x: left + gap * i, y: bottom - height, height }))
      this.marker.setAttribute(key, value);
  }
}

function drawn(tag, attributes, text = "") {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, text);
}
