"""What is told of a text while it is typed is what its encoder tells."""

import asyncio

import host_models
import pytest
import support
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host
dev = support.dev
MAX = dev.load_pack("constants").MAX_TOKENS
terse = dev.load_pack("prompts.terse")


@pytest.fixture
def ahead(comfy):
    return dev.load_pack("nodes.shared.text_ahead")


@pytest.fixture(scope="module")
def clip(comfy, tmp_path_factory):
    """A small T5 with T5's vocabulary."""
    sizes = {"vocab_size": 32_128, "width": 64, "num_layers": 2, "num_heads": 2, "head_dim": 32, "mlp_dim": 128}
    config = dev.load_pack("loaders.t5.sizes").T5Config(**sizes, gated=True)
    path = tmp_path_factory.mktemp("t5") / "t5.safetensors"
    save_file(host_models.random_t5_weights(config), path)
    with torch.inference_mode():
        return dev.load_pack("host.text.t5_clip").load_encoder(str(path), "keep")


def told(ahead, text, **inputs):
    kind = inputs.pop("class_type", "ChromaTextEncode")
    return ahead.ahead({"class_type": kind, "inputs": {"text": text, **inputs}})["report"]


@pytest.mark.parametrize(
    "text", ["", "a red fox", "a (red:1.3) fox, <lora:x:1>", "狐が眠る", "word " * 600], ids=lambda t: t[:8]
)
@pytest.mark.parametrize("mode", ["exact", "one pad", "legacy"])
def test_it_is_the_report_of_the_encoder(ahead, clip, text, mode):
    with torch.inference_mode():
        _, prompt = dev.load_pack("host.text.encode_prompt").encode(clip, text, mode)
    expected = str(dev.load_pack("prompts.tokens").prompt_report(prompt, mode, "positive", text))
    assert told(ahead, text, mode=mode)["text"].startswith(expected)


def test_what_falls_off_is_told_as_an_error_at_once(ahead):
    text = "word " * 520 + "a red fox asleep on a mossy rock"
    report = told(ahead, text)
    assert report["bar"] == {"value": pytest.approx(534, abs=10), "max": MAX}
    line, length, level = report["marks"][-1]
    assert level == "error" and report["text"].splitlines()[line].endswith("mossy rock … is not seen by the model")
    assert length == len(report["text"].splitlines()[line]) - len(" is not seen by the model")
    assert told(ahead, text, over_limit="error")["text"].startswith("ERROR: the prompt has 5")
    assert "not seen" not in told(ahead, text, over_limit="chunk and concatenate")["text"]


def test_choices_by_chance_count_with_their_longest(ahead):
    first = told(ahead, "a {fox|very large red fox with a bushy tail} asleep")["text"].splitlines()[0]
    assert first == told(ahead, "a very large red fox with a bushy tail asleep")["text"].splitlines()[0]


def test_terse_prompt_gets_a_long_form_to_apply(ahead):
    report = told(ahead, "a fox", class_type="ChromaPrompt", style="photograph")
    found = terse.offer("a fox")
    assert found.long in report["text"] and found.negative in report["text"] and "cfg: 4" in report["text"]
    assert "Advice, not measured" in report["text"]
    (act,) = report["acts"]
    assert act[1:] == ["", [["text", found.long]]]
    for more in ({"style_prompt": "anime"}, {"own_style": "A film. {prompt}"}):
        assert not told(ahead, "a fox", class_type="ChromaPrompt", **more)["acts"]


def test_run_tells_it_too_and_adds_nothing(ahead, caplog):
    caplog.set_level("INFO")
    node = dev.load_pack("nodes.prompt").ChromaPrompt.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    assert node.execute(text="a fox", style="photograph").args == ("a fox",)
    assert "a short prompt that leaves medium, place and light open" in caplog.text


@pytest.mark.parametrize("style", terse.NEGATIVE)
def test_negative_that_is_offered_is_long_enough(ahead, style):
    """Shorter ones do harm, says the guide; so the Doctor too."""
    count = dev.load_pack("host.text.encode_prompt").count
    assert dev.load_pack("constants").SHORT_NEGATIVE <= count(terse.NEGATIVE[style]).num_tokens < MAX


def test_studio_tells_of_both_its_texts(ahead):
    """The prompt's count with its bar, then the negative's, and of each what stands out."""

    def told(**inputs):
        return ahead.ahead({"class_type": "ChromaStudio", "inputs": inputs})["report"]

    both = told(prompt="a red fox BREAK a hare", negative="blurry")
    first, hint, second, short = both["text"].splitlines()
    assert first.endswith("of 512 tokens") and both["bar"]["value"] == int(first.split()[1])
    assert hint.startswith("hint: “BREAK”")
    assert second.startswith("Negative prompt: ") and second.endswith(" of 512 tokens")
    assert short.startswith("hint: a negative prompt does best empty")
    assert told(prompt="a red fox", negative=" ")["text"].splitlines() == [told(prompt="a red fox")["text"]]
    assert told(negative="blurry")["bar"]["max"] == MAX  # the prompt comes by link


def test_table_has_every_input_in_which_a_prompt_is_typed(ahead):
    """Those of several lines in which {a|b} is a choice."""
    schemas = [node.GET_SCHEMA() for node in asyncio.run(dev.load_pack("nodes").ChromaExtension().get_node_list())]
    typed = {
        (schema.node_id, one.id)
        for schema in schemas
        for one in schema.inputs
        if getattr(one, "multiline", False) and one.dynamic_prompts
    }
    assert typed == {(kind, name) for kind, row in ahead.TYPED.items() for name in row.texts}


@pytest.mark.parametrize("query", [{}, [], {"class_type": "X", "inputs": {"text": ""}}, {"inputs": {}}], ids=str)
def test_query_of_another_form_is_refused(ahead, query):
    with pytest.raises(ValueError, match="^(the query|inputs|class_type)"):
        ahead.ahead(query)
