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
