// Two pictures on one place, with a slider between them, on Chroma Compare Pictures; nodes/compare_pictures.py gives their files.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { addElement, made, passOn } from "./dom_widget.js";
import { arrived, isPlace } from "./open_workflow.js";
import { nodeOf, pathOf, workflowOf } from "./report.js";
import { word } from "./words.js";

const NODE = "ChromaComparePictures";
const SHOWN = "chroma_compare"; // key in what the node gives
const MARGIN = 6; // pixels around the widget on the canvas
const [WIDTH, HEIGHT, MIN_HEIGHT] = [400, 400, 160]; // pixels
const STEP = 0.02; // of the picture's width, by an arrow key

const views = new WeakMap(); // node -> its CompareView
const MAX_KEPT = 200;
// "workflow id/execution id" -> the files that a node showed last, and the path of its open workflow, the oldest first
const kept = new Map();

const STYLE = `
.chroma-compare { box-sizing: border-box; min-width: 0; min-height: ${MIN_HEIGHT}px; width: 100%; height: 100%; }
.chroma-compare .panel {
  position: relative; height: 100%; min-height: inherit; border-radius: 8px; overflow: hidden; outline: none;
  background: var(--component-node-widget-background, var(--comfy-input-bg));
  color: var(--component-node-foreground, var(--input-text)); font: 11px/15px Inter, Arial, sans-serif;
  cursor: ew-resize; user-select: none; touch-action: none;
}
.chroma-compare .panel:focus-visible { box-shadow: inset 0 0 0 2px var(--primary-background, #0b8ce9); }
.chroma-compare img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; pointer-events: none; }
.chroma-compare .bar {
  position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff; pointer-events: none;
  box-shadow: 0 0 3px #000;
}
.chroma-compare .name {
  position: absolute; top: 6px; padding: 0 6px; border-radius: 4px; background: #000a; color: #fff; pointer-events: none;
}
.chroma-compare .name.a { left: 6px; }
.chroma-compare .name.b { right: 6px; }
.chroma-compare .hint { position: absolute; inset: 0; display: grid; place-items: center; opacity: 0.72; }
.chroma-compare [hidden] { display: none; }
`;

export class CompareView {
  constructor() {
    if (!document.getElementById("chroma-compare-style"))
      document.head.append(made("style", { id: "chroma-compare-style" }, STYLE));
    this.share = 0.5; // of the picture's width that is A
    this.b = made("img", { alt: "B", draggable: "false" });
    this.a = made("img", { alt: "A", draggable: "false" });
    this.bar = made("div", { class: "bar" });
    this.names = [made("div", { class: "name a" }, "A"), made("div", { class: "name b" }, "B")];
    this.hint = made("div", { class: "hint" }, word("Run to compare A and B"));
    this.panel = made("div", {
      class: "panel", tabindex: 0, role: "slider", "aria-label": word("How much of A is shown"), "aria-valuemin": 0,
      "aria-valuemax": 100,
    });
    this.panel.append(this.b, this.a, this.bar, ...this.names, this.hint);
    this.element = made("div", { class: "chroma-compare" });
    this.element.append(this.panel);
    for (const image of [this.a, this.b]) {
      image.addEventListener("load", () => this.draw());
      image.addEventListener("error", () => this.show([])); // ComfyUI empties its folder of previews when it starts
    }
    new ResizeObserver(() => this.draw()).observe(this.panel);
    this.panel.addEventListener("pointerdown", (event) => this.grab(event));
    this.panel.addEventListener("pointermove", (event) => this.panel.hasPointerCapture(event.pointerId) && this.follow(event));
    this.panel.addEventListener("keydown", (event) => this.press(event));
    this.show([]);
  }

  /** files: of A and of B, as the host names them; or none. */
  show(files) {
    const isEmpty = files.length < 2;
    this.files = files;
    this.hint.hidden = !isEmpty;
    for (const element of [this.a, this.b, this.bar, ...this.names]) element.hidden = isEmpty;
    if (isEmpty) return;
    [this.a.src, this.b.src] = files.map((file) => api.apiURL(`/view?${new URLSearchParams(file)}`));
    this.draw();
  }

  grab(event) {
    if (event.button !== 0 || !this.hint.hidden) return;
    event.stopPropagation(); // neither drags nor selects the node
    this.panel.focus({ preventScroll: true });
    this.panel.setPointerCapture(event.pointerId);
    this.follow(event);
  }

  follow(event) {
    event.stopPropagation();
    const { left, width } = this.panel.getBoundingClientRect(); // scaled, as the pointer's place
    const box = this.picture();
    this.move(((event.clientX - left) / width * this.panel.clientWidth - box.left) / box.width);
  }

  press(event) {
    const step = { ArrowLeft: -STEP, ArrowRight: STEP, Home: -1, End: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas moves nodes with them
    this.move(this.share + step);
  }

  move(share) {
    this.share = Math.min(1, Math.max(0, share));
    this.draw();
  }

  /** Where the picture lies in the panel, in its own pixels. */
  picture() {
    const { clientWidth: width, clientHeight: height } = this.panel;
    const { naturalWidth: w, naturalHeight: h } = this.a;
    if (!w || !width) return { left: 0, width: width || 1 };
    const shown = Math.min(width, height * w / h);
    return { left: (width - shown) / 2, width: shown };
  }

  draw() {
    const { left, width } = this.picture();
    const place = left + this.share * width;
    this.a.style.clipPath = `inset(0 ${this.panel.clientWidth - place}px 0 0)`;
    this.b.style.clipPath = `inset(0 0 0 ${place}px)`;
    this.bar.style.left = `${place}px`;
    this.panel.setAttribute("aria-valuenow", Math.round(100 * this.share));
  }
}

function restore() {
  for (const [key, { files, path }] of kept) {
    const [workflow, id] = key.split("/");
    const view = workflow === app.rootGraph.id && isPlace(path) ? views.get(nodeOf(id)) : undefined;
    if (view && view.files !== files) view.show(files);
  }
}

app.registerExtension({
  name: "Chroma.Compare",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const view = new CompareView();
    views.set(node, view);
    addElement(node, SHOWN, view.element, { margin: MARGIN, getMinHeight: () => MIN_HEIGHT + 2 * MARGIN });
    passOn(view.element);
    node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT)]);
  },
  setup() {
    api.addEventListener("executed", ({ detail: { prompt_id, display_node, node, output } }) => {
      const [files, workflow, id, path] = [output?.[SHOWN], workflowOf(prompt_id), display_node ?? node, pathOf(prompt_id)];
      if (!files) return;
      kept.delete(`${workflow}/${id}`); // so that it is the newest
      kept.set(`${workflow}/${id}`, { files, path });
      if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value);
      if (workflow === app.rootGraph.id && isPlace(path)) views.get(nodeOf(id))?.show(files); // else in another tab
    });
  },
  afterConfigureGraph: () => arrived(restore), // in another tab of the page, come back to
});
