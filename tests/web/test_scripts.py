"""What web/js does, in Node.js with a stand-in for ComfyUI's page: races, what stays behind, what becomes of undo."""

import json
import shutil
import subprocess

import pytest
import support

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js here")
TABLE = {  # of the server, for one node
    "nodes": {"ChromaScheduler": {"curve": "beta", "params": []}},
    "options": ["steps"],
    "shifts": {},
    "passing": [],
    "constants": [],
}


@pytest.fixture
def run(tmp_path):
    """Runs a script beside the pack's, where the page has them; gives what it has in `told`."""
    scripts = tmp_path / "extensions" / "chroma-pack" / "js"
    shutil.copytree(support.ROOT / "web" / "js", scripts)
    shutil.copy(support.ROOT / "tests" / "web" / "page.mjs", tmp_path / "page.mjs")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "scripts").mkdir()
    for name in ("app", "api"):
        (tmp_path / "scripts" / f"{name}.js").write_text(f"export const {{ {name} }} = globalThis.page;\n")

    def ran(code):
        head = 'import * as page from "./page.mjs";\nconst js = (name) => import(`./extensions/chroma-pack/js/${name}.js`);\n'
        path = tmp_path / "test.mjs"
        path.write_text(f"{head}{code}\nconsole.log(JSON.stringify(told)); process.exit(0);\n")
        done = subprocess.run([NODE, path], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ran


SAMPLER = """
page.api.answers["/chroma/settings"] = { report: null, sigmas: null, values: { steps: 20, cfg: 3 } };
await js("settings");
await page.start();
const sampler = page.nodeOf("ChromaKSampler", 1, { steps: 26, cfg: 4, quality: "standard" });
const value = (name) => sampler.widgets.find((widget) => widget.name === name).value;
const set = (name, to) => (sampler.widgets.find((widget) => widget.name === name).value = to);
page.create(sampler);
page.app.rootGraph.add(sampler);
page.tracker.captureCanvasState();
await page.look(); // writes what standard takes, 20 steps
page.tracker.captureCanvasState();
const before = page.tracker.undoQueue.length;
"""


def test_value_changed_just_before_a_run_is_queued_counts(run):
    """The page queues by itself at a change, where it is set so, before the next look."""
    told = run(
        f"""{SAMPLER}
        const written = [value("steps"), value("quality")];
        set("steps", 5);
        page.api.dispatchEvent(new Event("promptQueueing"));
        const told = [written, [value("steps"), value("cfg"), value("quality")]];"""
    )
    assert told == [[20, "standard"], [5, 3, "custom"]]


def test_choice_of_custom_belongs_to_the_step_of_undo_that_changed_a_value(run):
    told = run(
        f"""{SAMPLER}
        set("steps", 5);
        page.tracker.captureCanvasState(); // as the page does at once
        await page.look();
        page.tracker.captureCanvasState();
        const told = [value("quality"), page.tracker.undoQueue.length - before];"""
    )
    assert told == ["custom", 1]


def test_choice_of_custom_in_the_middle_of_a_drag_is_no_step_of_its_own(run):
    told = run(
        f"""{SAMPLER}
        set("steps", 5);
        await page.look();
        const during = [value("quality"), page.tracker.undoQueue.length - before];
        set("steps", 7);
        page.tracker.captureCanvasState();
        const told = [...during, page.tracker.undoQueue.length - before];"""
    )
    assert told == ["custom", 0, 1]


CURVE = f"""
page.api.answers["/chroma/curve"] = {json.dumps(TABLE)};
await js("curve");
await page.start();
const scheduler = page.nodeOf("ChromaScheduler", 1, {{ steps: 20 }});
const element = () => scheduler.widgets.find((widget) => widget.name === "chroma_curve").element;
"""


def test_curves_of_subgraphs_that_the_page_let_go_are_let_go(run):
    """The page tells of the nodes that it takes out of the workflow itself alone."""
    told = run(
        f"""{CURVE}
        page.create(scheduler);
        const subgraph = new page.Graph("a subgraph");
        page.app.rootGraph.subgraphs.set(subgraph.id, subgraph);
        subgraph.add(scheduler);
        page.passFrames(5000);
        const told = [page.isWaiting()];
        page.app.rootGraph.subgraphs.clear(); // as undo and another tab do
        page.passFrames(5000);
        told.push(page.isWaiting());"""
    )
    assert told == [True, False]


def test_curve_is_asked_for_again_where_the_server_did_not_answer(run):
    told = run(
        f"""{CURVE}
        const problem = () => element().children[0].children[2];
        page.api.answers["/chroma/curve"] = "";
        page.create(scheduler);
        page.app.rootGraph.add(scheduler);
        page.passFrames(1);
        await page.settled();
        const told = [[problem().hidden, problem().textContent]];
        page.passFrames(50);
        await page.settled();
        told.push(page.api.asked.length); // once at the start, once for the curve: it is left alone for a while
        page.api.answers["/chroma/curve"] = {{ sigmas: [1, 0.5, 0], shift: null }};
        await new Promise((done) => setTimeout(done, 1100));
        page.passFrames(1);
        await page.settled();
        told.push(problem().hidden);"""
    )
    assert told == [[False, "ComfyUI does not answer"], 2, True]


def test_pictures_that_the_server_no_longer_has_make_way_for_the_hint(run):
    """ComfyUI empties its folder of previews when it starts; the page stays, and makes its nodes anew at each undo."""
    told = run(
        """
        const { CompareView } = await js("compare");
        const view = new CompareView();
        const told = [view.hint.hidden];
        view.show([{ filename: "a.png" }, { filename: "b.png" }]);
        told.push(view.hint.hidden);
        view.a.fire("error");
        told.push(view.hint.hidden, view.a.hidden, view.b.hidden);"""
    )
    assert told == [False, True, False, True, True]


def test_a_studio_that_is_switched_off_opens_as_nodes_that_are(run):
    told = run(
        """
        page.api.answers["/chroma/studio"] = { nodes: { a: { class_type: "VAEDecode", inputs: {} } }, output: ["a", 0] };
        const { app } = page;
        LiteGraph.registered_node_types.VAEDecode = {};
        LiteGraph.createNode = (kind) => ({ ...page.nodeOf(kind, 2), constructor: {} });
        app.rootGraph.remove = (node) => app.rootGraph.nodes.splice(app.rootGraph.nodes.indexOf(node), 1);
        for (const name of ["select", "deselectAll"]) app.canvas[name] = () => {};
        await js("studio");
        const studio = { ...page.nodeOf("ChromaStudio", 1), mode: 2, outputs: [{ links: [] }] };
        app.rootGraph.add(studio);
        page.menuOf(studio)[0].callback();
        await page.settled();
        const told = app.rootGraph.nodes.map(({ type, mode }) => [type, mode]);"""
    )
    assert told == [["VAEDecode", 2]]


def test_settings_and_model_are_asked_about_however_much_stands_before_the_prompt(run):
    """A large workflow is cut: what decides of the settings is not."""
    told = run(
        """
        const { graphOf } = await js("graph_query");
        const { rootGraph } = page.app;
        let id = 0;
        const made = (kind, inputs = {}) => {
            const node = page.nodeOf(kind, ++id);
            for (const [name, [type, source]] of Object.entries(inputs)) {
                const link = rootGraph.links.size + 1;
                rootGraph.links.set(link, { origin_id: source.id, origin_slot: 0 });
                node.inputs.push({ name, type, link });
            }
            rootGraph.add(node);
            return node;
        };
        const model = made("ChromaDiffusionLoader");
        let text = made("StringConcatenate");
        for (let i = 0; i < 100; i++) text = made("StringConcatenate", { string_a: ["STRING", text] });
        const settings = made("ChromaPreset", { model: ["MODEL", model] });
        const latent = made("EmptySD3LatentImage");
        const sampler = made("ChromaKSampler", {
            positive: ["CONDITIONING", made("ChromaTextEncode", { text: ["STRING", text] })],
            latent: ["LATENT", latent], model: ["MODEL", model], settings: ["CHROMA_SETTINGS", settings],
        });
        const { graph, node } = graphOf(sampler);
        const told = ["settings", "model", "latent"].map((name) => graph[graph[node].inputs[name]?.[0]]?.class_type ?? null);
        told.push(Object.keys(graph).length);"""
    )
    assert told == ["ChromaPreset", "ChromaDiffusionLoader", "EmptySD3LatentImage", 80]


# --- reports -----------------------------------------------------------------------------------------------------------

REPORTS = """
await js("report");
await page.start();
const { api, app, toldBy } = page;
const made = (kind, id, values = {}) =>
    ({ ...page.nodeOf(kind, id, values), title: kind, constructor: { nodeData: { python_module: "custom_nodes.chroma-pack" } } });
const [loader, guider, text] = [made("ChromaDiffusionLoader", 1), made("ChromaCFGGuider", 2), made("ChromaTextEncode", 3)];
[loader, guider, text].forEach((node) => app.rootGraph.add(node));
const report = (text) => ({ text, marks: [], acts: [], bar: null, level: "info" });
const executed = (node, text) => ({ prompt_id: "p", node, output: { chroma_report: [JSON.stringify(report(text))] } });
const told = [];
const look = () => told.push([loader, guider, text].map(toldBy));
const refused = async (ids) => { // by the server, whether or not it takes the rest
    api.tell("promptQueueing");
    const errors = [{ type: "custom_validation_failed", details: "x - is not known" }];
    app.extensionManager.lastNodeErrors = Object.fromEntries(ids.map((id) => [id, { errors }]));
    await new Promise((done) => setTimeout(done, 60)); // until it is looked for
};
"""
RUN = """
api.tell("chroma.queued", { prompt: "p", workflow: app.rootGraph.id });
api.tell("execution_start", { prompt_id: "p" });
api.tell("execution_cached", { prompt_id: "p", nodes: [] });
api.tell("executed", executed("1", "13 M"));
api.tell("executed", executed("3", "9 tokens"));
api.tell("chroma.report", { node: "2", workflow: app.rootGraph.id, ...report("cfg 3") });
api.tell("execution_success", { prompt_id: "p" });
look();
"""
FROM_CACHE = """
api.tell("promptQueueing");
app.extensionManager.lastNodeErrors = null;
api.tell("promptQueued");
api.tell("chroma.queued", { prompt: "q", workflow: app.rootGraph.id });
api.tell("execution_start", { prompt_id: "q" });
api.tell("execution_cached", { prompt_id: "q", nodes: ["1", "2", "3"] });
api.tell("executed", { ...executed("1", "13 M"), prompt_id: "q" });
api.tell("executed", { ...executed("3", "9 tokens"), prompt_id: "q" });
api.tell("execution_success", { prompt_id: "q" });
look();
"""
TOLD, ERROR = ["13 M", "cfg 3", "9 tokens"], "ERROR: is not known"


def test_refused_prompt_leaves_what_other_nodes_told_of_the_run_before(run):
    """Nothing has run: the picture on the page is still that run's. The host does not repeat all of it from its cache."""
    told = run(f"{REPORTS}{RUN} await refused(['1']); look(); {FROM_CACHE}")
    assert told == [TOLD, [ERROR, "cfg 3", "9 tokens"], TOLD]


def test_error_of_a_refusal_is_gone_once_the_node_comes_from_the_cache(run):
    """What a guider told came after it, so the host does not repeat it."""
    told = run(f"{REPORTS}{RUN} await refused(['2']); look(); await refused(['2']); {FROM_CACHE}")
    assert told == [TOLD, ["13 M", ERROR, "9 tokens"], TOLD]


def test_part_of_a_prompt_that_runs_keeps_what_it_told_before_the_refusal_is_seen(run):
    """Of a prompt some outputs are refused, the others run; from the cache they are done before the page has the answer."""
    told = run(
        f"""{REPORTS}
        api.tell("promptQueueing");
        {RUN}
        app.extensionManager.lastNodeErrors = {{ 2: {{ errors: [{{ type: "x", message: "missing" }}] }} }};
        api.tell("promptQueued");
        look();"""
    )
    assert told == [TOLD, ["13 M", "ERROR: missing", "9 tokens"]]


def test_refusal_of_a_part_stays_while_the_rest_runs(run):
    told = run(f"{REPORTS} await refused(['2']); {RUN.replace('look();', '').replace('chroma.report', 'x')} look();")
    assert told == [["13 M", ERROR, "9 tokens"]]


def test_error_of_a_run_is_not_repeated_where_a_later_run_has_the_node_from_the_cache(run):
    """That cache may hold the outputs of several runs."""
    told = run(
        f"""{REPORTS}
        api.tell("execution_start", {{ prompt_id: "p" }});
        api.tell("execution_error", {{ prompt_id: "p", node_id: "2", exception_message: "too wide" }});
        look();
        {FROM_CACHE}"""
    )
    assert told == [[None, "ERROR: too wide", None], ["13 M", "", "9 tokens"]]


def test_run_of_one_workflow_is_not_told_in_another_of_the_same_id(run):
    """Two pictures of one workflow, dropped on the page: they have one id, and other values."""
    told = run(
        f"""{REPORTS}
        const [a, b] = [{{ id: "w", path: "a.json" }}, {{ id: "w", path: "b.json" }}];
        app.extensionManager.workflow.openWorkflows.push(a, b);
        const nodes = (cfg) => [made("ChromaDiffusionLoader", 1), made("ChromaCFGGuider", 2, {{ cfg }}), made("ChromaTextEncode", 3)];
        let shown;
        const open = async (workflow, cfg) => page.open(workflow, ...(shown = nodes(cfg)));
        const see = () => told.push(shown.map(toldBy));
        await open(b, 4);
        {RUN.replace("look();", "").replace('"p"', '"of b"').replace("cfg 3", "cfg 4")}
        see();
        await open(a, 3);
        see(); // of the same values: what the other told of them holds
        api.tell("chroma.queued", {{ prompt: "p", workflow: "w" }});
        await open(b, 4);
        {RUN.replace("look();", "").split("queued", 1)[1].split(";", 1)[1]}
        see();
        await open(a, 3);
        see();"""
    )
    assert told == [["13 M", "cfg 4", "9 tokens"], ["13 M", None, "9 tokens"], ["13 M", "cfg 4", "9 tokens"], TOLD]


def test_pictures_of_one_workflow_are_not_shown_in_another_of_the_same_id(run):
    told = run(
        """
        await js("compare");
        await page.start();
        const { api, app } = page;
        const [a, b] = [{ id: "w", path: "a.json" }, { id: "w", path: "b.json" }];
        app.extensionManager.workflow.openWorkflows.push(a, b);
        const told = [];
        let node;
        const open = (workflow) => {
            page.create((node = page.nodeOf("ChromaComparePictures", 1)));
            return page.open(workflow, node);
        };
        const look = () => told.push(!node.widgets[0].element.children[0].children[0].hidden);
        await open(a);
        api.tell("chroma.queued", { prompt: "p", workflow: "w" });
        await open(b);
        api.tell("executed", { prompt_id: "p", node: "1", output: { chroma_compare: [{ filename: "a" }, { filename: "b" }] } });
        look();
        await open(a);
        look();
        await open(b);
        look();"""
    )
    assert told == [False, True, False]


# --- what the Doctor offers to set ---------------------------------------------------------------------------------------

APPLY = """
const { ReportView } = await js("report_view");
let actions;
const { show } = ReportView.prototype;
ReportView.prototype.show = function (report) { actions = this.actions; return show.call(this, report); };
const sampler = made("KSampler", 7, { cfg: 100 });
sampler.inputs = [{ name: "cfg", widget: { name: "cfg" }, link: null }];
app.rootGraph.add(sampler);
const link = (source, count = 1) => {
    app.rootGraph.links.set(9, { origin_id: source.id, origin_slot: 0 });
    source.outputs = [{ links: [9, 10].slice(0, count) }];
    sampler.inputs[0].link = 9;
    if (!app.rootGraph.nodes.includes(source)) app.rootGraph.add(source);
};
api.tell("chroma.report", { node: "1", workflow: app.rootGraph.id, ...report("cfg 100") });
const fix = ["7", [["cfg", 4]], undefined];
const cfg = (node) => node.widgets[0].value;
const state = () => [actions.can(...fix), actions.linked(...fix)];
"""


def test_fix_of_an_input_that_was_linked_meanwhile_is_not_said_to_be_applied(run):
    told = run(
        f"""{REPORTS}{APPLY}
        told.push(state());
        link(made("ChromaPreset", 8));
        told.push(state(), actions.apply(...fix), cfg(sampler));
        sampler.inputs[0].link = null;
        told.push(actions.apply(...fix), cfg(sampler));"""
    )
    assert told == [[True, []], [False, ["cfg"]], False, 100, True, 4]


@pytest.mark.parametrize("kind", ["PrimitiveFloat", "PrimitiveNode"])
def test_fix_of_an_input_sets_the_value_of_the_node_that_gives_it_to_this_one_alone(run, kind):
    told = run(
        f"""{REPORTS}{APPLY}
        const source = made("{kind}", 8, {{ value: 100 }});
        link(source, 2);
        told.push(state(), actions.apply(...fix), cfg(source)); // another node has it too
        link(source);
        told.push(state(), actions.apply(...fix), cfg(source), cfg(sampler));"""
    )
    assert told == [[False, ["cfg"]], False, 100, [True, []], True, 4, 100]


def test_line_says_which_values_a_link_sets(run):
    told = run(
        f"""{REPORTS}{APPLY}
        link(made("ChromaPreset", 8));
        const acts = [[0, ...fix.slice(0, 2)]];
        api.tell("chroma.report", {{ node: "1", workflow: app.rootGraph.id, ...report("Use 4."), acts }});
        told.push(toldBy(loader));"""
    )
    assert told == ["Use 4. cfg set by link"]


# --- what the server answers where it cannot tell ------------------------------------------------------------------------

ANSWERS = """
const drawing = () => preset.widgets.find(({ name }) => name === "chroma_curve").element.children[0].children[2];
page.api.answers["/chroma/settings"] = { report: null, sigmas: [1, 0], steps: 1, shift: null, values: {} };
await js("settings");
await page.start();
const preset = page.nodeOf("ChromaPreset", 1, { steps: 20 });
page.create(preset);
page.app.rootGraph.add(preset);
const told = [];
const look = async (steps) => {
    preset.widgets[0].value = steps;
    await page.look();
    told.push([drawing().hidden, page.api.asked.filter((path) => path === "/chroma/settings").length]);
};
"""


def test_settings_that_the_server_cannot_tell_are_not_drawn_and_asked_once(run):
    """What is drawn would be that of the values before."""
    told = run(
        f"""{ANSWERS}
        await look(20);
        page.api.answers["/chroma/settings"] = {{ error: "KeyError: 3" }};
        page.api.status = 500;
        await look(21);
        await look(21);
        told.push(drawing().textContent);
        page.api.status = 200;
        page.api.answers["/chroma/settings"] = {{ report: null, sigmas: [1, 0], steps: 1, shift: null, values: {{}} }};
        await look(22);"""
    )
    assert told == [[True, 1], [False, 2], [False, 2], "not known before the run", [True, 3]]


@pytest.mark.parametrize("answer", ["", [1]], ids=["no JSON", "another thing"])
def test_settings_are_asked_for_again_after_a_while_where_something_else_answers(run, answer):
    """Such as a proxy before a server that starts."""
    told = run(
        f"""{ANSWERS}
        page.api.answers["/chroma/settings"] = {json.dumps(answer)};
        page.api.status = 502;
        await look(20);
        await look(20);
        page.api.status = 200;
        page.api.answers["/chroma/settings"] = {{ report: null, sigmas: [1, 0], steps: 1, shift: null, values: {{}} }};
        await new Promise((done) => setTimeout(done, 1100));
        await look(20);"""
    )
    assert [asked for _, asked in told] == [1, 1, 2]


def test_an_error_of_a_curve_is_not_kept(run):
    told = run(
        f"""{CURVE}
        const told = [];
        page.create(scheduler);
        const draw = async (steps, answer) => {{
            scheduler.widgets[0].value = steps;
            page.api.answers["/chroma/curve"] = answer;
            if (!scheduler.graph) page.app.rootGraph.add(scheduler);
            page.passFrames(1);
            await page.settled();
            const problem = element().children[0].children[2];
            told.push(problem.hidden || problem.textContent);
        }};
        const curve = {{ sigmas: [1, 0.5, 0], shift: null }};
        await draw(20, {{ error: "MemoryError" }});
        await draw(21, curve);
        await draw(20, curve);"""
    )
    assert told == ["MemoryError", True, True]
