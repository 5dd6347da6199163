// Shows on Chroma Preset, Chroma Speed, Chroma KSampler, Chroma Studio and Chroma Size what they will use, before a run, and on
// loaders what a wrong file is; nodes/shared/settings_ahead.py works it out from the files' headers. Chroma KSampler's widgets show the
// values of its choice of quality; who changes one chooses `custom` by that.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ask } from "./ask.js";
import { addDrawing } from "./curve.js";
import { CurveView } from "./curve_view.js";
import { Pause, listed, lookAll } from "./dom_widget.js";
import { graphOf, isOnPage, isShared, joined, unrecorded, widgetFor } from "./graph_query.js";
import { Runs, preview } from "./report.js";
import { word } from "./words.js";

const PATH = "/chroma/settings";
const DRAWN = ["ChromaPreset", "ChromaSpeed"]; // with the curve of their schedule
const SAMPLER = "ChromaKSampler";
const LOADERS = ["ChromaDiffusionLoader", "ChromaCLIPLoader", "ChromaLoraLoader", "ChromaFlash"]; // tell what their file is, if it is wrong
const TELL_ALONE = ["ChromaStudio", "ChromaSize", ...LOADERS]; // without a drawing or values for widgets
const CUSTOM = "custom";
const NOTHING = { report: null, sigmas: null, values: null }; // where the server cannot tell
const SEEDS = ["seed", "noise_seed"];
const LOOK_MS = 300; // between two looks at the widgets: no event tells of every way in which they change

const tellers = new Set(); // of the nodes that stand in a graph

/** What is asked, as JSON. Nothing that is told depends on a seed, which changes with each run: that must not replace its report. */
function queryOf(node) {
  return JSON.stringify(graphOf(node), (name, value) => (SEEDS.includes(name) && typeof value === "number" ? undefined : value));
}

/** What one node tells. */
class Teller {
  constructor(node) {
    this.node = node;
    this.runs = new Runs(node);
    this.key = null; // of what was asked last
    this.told = null; // the report of the last answer, as JSON
    this.busy = false;
    this.pause = new Pause(); // while the server is away
    this.written = null; // the values that the widgets have got from here, by name
    if (DRAWN.includes(node.comfyClass)) this.view = addDrawing(node, new CurveView());
  }

  /** Whether another node gives the settings. */
  get isLinked() {
    return this.node.inputs.some((input) => input.name === "settings" && input.link != null);
  }

  /** Whether the node's own widgets count. */
  get isCustom() {
    if (this.node.comfyClass !== SAMPLER || this.isLinked) return false;
    return (widgetFor(this.node, "quality")?.widget.value ?? CUSTOM) === CUSTOM;
  }

  async look() {
    if (this.busy || this.pause.isOn || isShared(this.node)) return;
    if (this.wasChanged()) return;
    const hasRun = this.runs.hasToldSince();
    const body = queryOf(this.node);
    if (body === this.key) return;
    const first = this.key === null;
    this.key = body;
    this.busy = true;
    try {
      const told = await ask(PATH, body);
      this.pause.end();
      if (queryOf(this.node) !== body) this.key = first ? null : body; // changed meanwhile: the next look asks for what is there
      else this.show(told.error ? NOTHING : told, first || hasRun || this.runs.hasToldSince());
    } catch {
      this.key = null; // the server is away; asked again
      this.pause.begin();
    } finally {
      this.busy = false;
    }
  }

  show({ report, sigmas, steps, shift, values }, stays) {
    const text = JSON.stringify(report);
    if (text !== this.told) preview(this.node, "settings", report, stays); // else what a run has told since stays
    this.told = text;
    if (this.view && sigmas) this.view.show(sigmas, steps, shift === null ? "" : word("shift {}", Number(shift.toFixed(2))), "");
    else if (this.view) this.view.fail(word("not known before the run"));
    if (this.node.comfyClass === SAMPLER && values) this.write(values);
  }

  /** Puts the values into the widgets, so that they show what is used and stay when `custom` is chosen. */
  write(values) {
    this.written = {};
    const found = Object.keys(values).filter((name) => widgetFor(this.node, name));
    const others = found.filter((name) => widgetFor(this.node, name).widget.value !== values[name]);
    const set = () => {
      for (const name of others) {
        const { widget } = widgetFor(this.node, name);
        widget.value = values[name];
        if (name === "shift") widget.callback?.(widget.value); // it brings widgets of its own
      }
    };
    if (others.length) unrecorded(this.node, set);
    for (const name of found) this.written[name] = values[name];
    this.key = queryOf(this.node); // with these
    this.node.setDirtyCanvas(true, true);
  }

  /** Whether a person has changed one of the values: then it counts, and so do the others. */
  wasChanged() {
    if (this.isLinked || this.isCustom || !this.written) return false;
    const names = Object.keys(this.written);
    const changed = names.some((name) => {
      const found = widgetFor(this.node, name);
      return found && found.widget.value !== this.written[name];
    });
    if (!changed) return false;
    const quality = widgetFor(this.node, "quality")?.widget;
    if (quality) joined(this.node, () => (quality.value = CUSTOM));
    this.node.setDirtyCanvas(true, true);
    return true;
  }
}

app.registerExtension({
  name: "Chroma.Settings",
  setup() {
    api.addEventListener("promptQueueing", () => { // it may come before the next look: the page can queue at each change
      for (const teller of tellers) if (isOnPage(teller.node) && !isShared(teller.node)) teller.wasChanged();
    });
    setInterval(() => document.hidden || lookAll(tellers), LOOK_MS);
    api.addEventListener("reconnected", () => tellers.forEach((teller) => (teller.key = null, teller.pause.end())));
  },
  refreshComboInNodes() { // R was pressed: there may be other files
    tellers.forEach((teller) => (teller.key = null));
  },
  nodeCreated(node) {
    if (![...DRAWN, SAMPLER, ...TELL_ALONE].includes(node.comfyClass)) return;
    const teller = new Teller(node);
    listed(node, tellers, teller);
  },
});
