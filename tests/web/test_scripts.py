"""What web/js does, in Node.js with a stand-in for ComfyUI's page: races, what stays behind, what becomes of undo."""

import json
import shutil
import subprocess

import pytest
import support

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js here")


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
