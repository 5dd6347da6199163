"""What a node's report is made into, and whom it is sent to."""

import types

import pytest
import support

pytestmark = pytest.mark.host

dev = support.dev
constants = dev.load_pack("constants")


@pytest.fixture
def module(comfy):
    return dev.load_pack("nodes.shared.report")


@pytest.fixture
def sent(module, monkeypatch):
    """What a server sends that runs a prompt of the client `tab`; its workflow is `flow`."""
    out = []
    item = (0, "prompt", {}, {"extra_pnginfo": {"workflow": {"id": "flow"}}}, [], {})
    server = types.SimpleNamespace(
        client_id="tab",
        prompt_queue=types.SimpleNamespace(get_current_queue_volatile=lambda: ([item], [])),
        send_sync=lambda *message: out.append(message),
    )
    monkeypatch.setattr(module.PromptServer, "instance", server, raising=False)
    out_of = types.SimpleNamespace(messages=out, server=server, extra=item[3])
    return out_of


def test_report_goes_to_the_client_that_queued_with_its_workflow(module, sent):
    module.show("Node", "10:5", "one\ntwo", bar={"value": 3, "max": 4})
    told = {"text": "one\ntwo", "marks": [], "acts": [], "bar": {"value": 3, "max": 4}, "level": "info"}
    assert sent.messages == [("chroma.report", {"node": "10:5", "workflow": "flow", **told}, "tab")]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        *({"extra_pnginfo": info} for info in (None, {}, "text", ["list"], 5)),
        *(
            {"extra_pnginfo": {"workflow": flow}}
            for flow in (None, "text", ["list"], 5, {"id": ["list"]}, {"id": None})
        ),
    ],
    ids=str,
)
def test_prompt_without_a_workflow_is_told_without_its_id(module, sent, extra):
    sent.extra.clear()
    sent.extra.update(extra)
    module.show("Node", "1", "one")
    assert sent.messages[0][1]["workflow"] is None


def test_what_only_tells_fails_no_run(module, sent, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("steps")

    module.show("Node", "1", broken)
    assert sent.messages[0][1]["text"] == "This report has failed (KeyError), so it is not shown. The run goes on."
    sent.server.send_sync = broken
    module.show("Node", "1", lambda: "one")
    assert [m for m in caplog.messages if "failed" in m] == [
        "Node: failed to report on this run: KeyError: 'steps'"
    ] * 2
    assert module.only_tell("Node", lambda: 5) == 5


def test_prompt_without_a_client_is_told_to_nobody(module, sent):
    sent.server.client_id = None
    module.show("Node", "1", "one")
    module.show("Node", None, "one")
    assert sent.messages == []


def lora_text():
    lora = dev.load_pack("loaders.lora.plan")
    plan = lora.Plan()
    plan.layers.update(
        {
            lora.MATCHED: ["a"],
            lora.UNKNOWN: ["b"],
            lora.MISSHAPEN: [lora.Misfit("c", (2, 2), (4, 4))],
            lora.MISSING_BLOCK: ["d"],
        }
    )
    return dev.load_pack("loaders.lora.report").summary(plan, ["a"])


def prompt_text():
    text = dev.load_pack("prompts.tokens")
    return text.prompt_report(text.Prompt(600, dropped=88, first_dropped="and"), "exact", "positive")


def finding_text(severity):
    finding, doctor = dev.load_pack("advice.finding"), dev.load_pack("advice.doctor")
    return doctor.findings_text([finding.Finding(severity, "1", "title", "text", "remedy")], {})


def read_out_text(finished):
    return dev.load_pack("samplers.run_record").RunRecord(cfg=3.0, steps=4, finished=finished).text()


@pytest.mark.parametrize(
    "text, heads, level",
    [
        (prompt_text, ["WARNING: "], "warning"),
        (
            lora_text,
            ["unmatched: ", "of blocks that this model does not have: ", "skipped, do not fit: ", "Warning: "],
            "warning",
        ),
        (lambda: constants.Lines([constants.Line("hint: ", "info", "more"), "hint: no"]), ["hint: "], "info"),
        (lambda: "hint: a text without lines", [], "info"),
        (lambda: finding_text("does harm"), ["DOES HARM: "], "error"),
        (lambda: finding_text("does nothing"), ["DOES NOTHING: "], "warning"),
        (lambda: finding_text("hint"), ["HINT: "], "info"),
        (lambda: read_out_text(True), [], "info"),
        (lambda: read_out_text(False), ["stopped before its end"], "warning"),
    ],
)
def test_lines_of_our_texts_that_stand_out_are_marked(module, text, heads, level):
    text = text()
    told = module.message(text)
    lines = text.split("\n")
    assert [lines[i][:length] for i, length, _ in told["marks"]] == heads
    assert told["level"] == level


@pytest.mark.parametrize("count", [1, 512, 1_234])
def test_bar_of_characters_becomes_a_drawn_one(module, count):
    text = dev.load_pack("prompts.tokens")
    told = module.message(text.prompt_report(text.Prompt(count), "exact", "positive"))
    assert told["bar"] == {"value": count, "max": 512}
    assert told["text"].startswith("█")
    assert module.message("4 of 5 layers matched")["bar"] is None


def test_level_of_a_node_counts_more_than_its_lines(module):
    assert module.message("WARNING: x", level="error")["level"] == "error"


def test_offered_node_is_the_fourth_entry_of_an_act(module):
    insert = dev.load_pack("advice.finding").Insert(
        "ChromaNAG", (("10", "model"),), also=(("negative", ("10", "negative")),)
    )
    line = constants.Line("→ ", constants.INFO, "use NAG", "10", (), insert)
    (act,) = module.message(constants.Lines(["one", line]))["acts"]
    assert act[:3] == [1, "10", []]
    assert act[3] == {
        "kind": "ChromaNAG",
        "into": (("10", "model"),),
        "through": "model",
        "values": (),
        "also": (("negative", ("10", "negative")),),
    }
