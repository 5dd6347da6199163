// What a node would ask the server to draw, read from its widgets and from the nodes that it is connected to.

// Node class -> where its curve stands: one that is always the same with the names of its parameters, or a DynamicCombo
// whose value names the curve and whose further widgets, "<combo>.<parameter>", are the parameters.
export const NODES = {
  ChromaScheduler: { combo: "curve" },
  ChromaBetaScheduler: { curve: "beta", params: ["alpha", "beta"] },
  ChromaSigmoidOffsetScheduler: { curve: "sigmoid_offset", params: ["square_k", "base_c"] },
};

const OPTIONS = ["steps", "denoise", "pin_first", "keep_steps"];

// Nodes whose one number is the value of whatever they are connected to.
const CONSTANTS = new Set(["PrimitiveNode", "PrimitiveInt", "PrimitiveFloat", "PrimitiveBoolean"]);

// Node class -> the sigmas of the models that it gives, as /chroma/curve takes them; undefined where that is not known.
const SHIFTS = {
  ChromaDiffusionLoader: () => ({ curve: "flux_shift" }), // the host's for Chroma
  ChromaTimestepShift: (node) => {
    const curve = { "shift 1": "none", fixed: "fixed_shift", "by resolution": "flux_shift" }[valueOf(node, "mode")];
    return curve === "none" ? { curve: "fixed_shift", shift: 1 } : shiftOf(node, curve, parametersOf(node, "mode"));
  },
  ModelSamplingAuraFlow: (node) => shiftOf(node, "fixed_shift", ["shift"]),
  ModelSamplingFlux: (node) => shiftOf(node, "flux_shift", ["width", "height", "base_shift", "max_shift"]),
};

// Nodes that give the model they get with its own sigmas.
const PASSING = new Set([
  "ChromaGuidance", "ChromaLoraLoader", "ChromaNAG", "LoraLoader", "LoraLoaderModelOnly", "Reroute", "TorchCompileModel",
]);
const MAX_PASSED = 50; // nodes; a chain may not end

/**
 * @returns {{query: object, linked: string[]}} the body for /chroma/curve, and the inputs whose links give values that
 *   only a run knows: their widgets' values stand in for them. `query.shift` is missing where the model's is not known.
 */
export function queryOf(node) {
  const { curve, combo, params } = NODES[node.comfyClass];
  const linked = [];
  const read = (name) => {
    const value = valueOf(node, name);
    if (value !== undefined) return value;
    linked.push(name.slice(name.indexOf(".") + 1));
    return node.widgets.find((widget) => widget.name === name)?.value;
  };
  const query = { curve: curve ?? read(combo), params: {} };
  for (const name of params ?? parametersOf(node, combo)) query.params[name.slice(name.indexOf(".") + 1)] = read(name);
  for (const name of OPTIONS) if (node.widgets.some((widget) => widget.name === name)) query[name] = read(name);
  for (const input of node.inputs) // a latent, whose size counts
    if (combo && input.name.startsWith(`${combo}.`) && !input.widget && input.link != null) linked.push("size");
  const shift = modelShift(node);
  if (shift) query.shift = shift;
  return { query, linked };
}

/** The model's sigmas as /chroma/curve takes them, from the nodes before; undefined where they do not tell. */
function modelShift(node) {
  for (let i = 0; i < MAX_PASSED; i++) {
    node = sourceOf(node, node.inputs.find((input) => input.type === "MODEL") ?? node.inputs[0]);
    if (!node || node.mode === 2) return undefined; // muted
    if (node.mode !== 4 && !PASSING.has(node.type)) return SHIFTS[node.type]?.(node); // 4: bypassed
  }
  return undefined;
}

function shiftOf(node, curve, names) {
  const shift = { curve };
  for (const name of names) shift[name.slice(name.indexOf(".") + 1)] = valueOf(node, name);
  return Object.values(shift).includes(undefined) ? undefined : shift;
}

/** Names of the widgets that a DynamicCombo's choice has brought. */
function parametersOf(node, combo) {
  return node.widgets.map((widget) => widget.name).filter((name) => name.startsWith(`${combo}.`));
}

/** A widget's value, or that of the constant it is connected to; undefined where another node gives it. */
function valueOf(node, name) {
  const input = node.inputs.find((input) => input.widget?.name === name && input.link != null);
  if (!input) return node.widgets.find((widget) => widget.name === name)?.value;
  const source = sourceOf(node, input);
  return CONSTANTS.has(source?.type) ? source.widgets?.[0]?.value : undefined;
}

function sourceOf(node, input) {
  return input?.link == null ? undefined : node.getInputNode(node.inputs.indexOf(input));
}
