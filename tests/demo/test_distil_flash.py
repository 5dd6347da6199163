import re

import pytest
import support
import torch

from demo import distil_flash, network, scenes, things

SIZES = network.Sizes(32, 1, 1, 1, 16, 1)
STEPS, SIDE = 12, 32


@pytest.fixture
def distiller(monkeypatch):
    monkeypatch.setattr(distil_flash, "BATCH", 4)
    monkeypatch.setattr(distil_flash, "RANK", 4)

    def make():
        torch.manual_seed(1)
        net = network.build(SIZES)
        torch.nn.init.normal_(net.final_layer.linear.weight, std=0.2)
        table = torch.randn(64, network.text_encoder.WIDTH, generator=torch.Generator().manual_seed(2))

        def text(captions):
            rows = torch.stack([table[[len(c) % 64, 1 + len(c) % 7]] for c in captions])
            return rows, torch.ones(rows.shape[:2], dtype=torch.bool)

        return distil_flash.Distiller(net, text)

    return make


def test_at_first_the_lora_changes_nothing_and_the_teacher_never_sees_it(distiller):
    made = distiller()
    generator = torch.Generator().manual_seed(3)
    x, cond = torch.randn(2, 16, 4, 4, generator=generator), made.text(["a fox", "a red car"])
    plain = network.build(SIZES).requires_grad_(False)
    plain.load_state_dict(made.net.state_dict())
    expected = distil_flash.velocity(plain, x, 0.5, cond)
    torch.testing.assert_close(distil_flash.velocity(made.net, x, 0.5, cond), expected)
    torch.nn.init.normal_(made.lora.up[0])
    assert support.relative(distil_flash.velocity(made.net, x, 0.5, cond), expected) > 1e-3
    made.lora.on = False
    assert torch.equal(distil_flash.velocity(made.net, x, 0.5, cond), expected)


def test_the_student_comes_nearer_to_where_the_teacher_leads(distiller):
    """Of the same lesson, before and after."""
    made = distiller()
    first = made.advance(2 * STEPS, SIDE)
    while made.step < 2 * STEPS:
        made.advance(2 * STEPS, SIDE)
    made.step = 0
    assert made.advance(2 * STEPS, SIDE) < 0.9 * first


def test_a_restarted_run_ends_as_an_unbroken_one(distiller, tmp_path):
    whole, broken, again = distiller(), distiller(), distiller()
    for _ in range(4):
        whole.advance(STEPS, SIDE)
    for _ in range(2):
        broken.advance(STEPS, SIDE)
    torch.save(broken.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        again.advance(STEPS, SIDE)
    assert all(torch.equal(a, b) for a, b in zip(whole.lora.parameters(), again.lora.parameters()))


def test_the_file_is_a_lora_of_every_layer_of_the_blocks(distiller):
    made = distiller()
    plan, shapes = support.dev.load_pack("loaders.lora.plan"), {}
    for name, parameter in made.net.named_parameters():
        shapes[name] = tuple(parameter.shape)
    found = plan.make_plan({k: tuple(t.shape) for k, t in made.lora.file().items()}, shapes)
    assert len(found.layers[plan.MATCHED]) == found.num_layers == len(made.lora.names)


def test_captions_name_known_things_in_styles_that_were_shown_and_no_edits():
    told = [caption for step in range(60) for caption in distil_flash.captions(step)]
    assert told == [caption for step in range(60) for caption in distil_flash.captions(step)]
    known, later = things.names()[: things.NUM_FIRST], things.names()[things.NUM_FIRST :]
    assert sum(any(name in caption for caption in told) for name in known) > 0.9 * len(known)
    held_out = [f"{style} {name}" for name in known for style in things.STYLES if things.is_held_out(name, style)]
    never = "|".join(map(re.escape, [*held_out, *(f"{style} {name}" for name in later for style in things.STYLES)]))
    assert not any(re.search(rf"\b({never})( on | at | and |,)", caption) for caption in told)
    grounds = "|".join(scenes.GROUNDS)  # which instructions of edits name after "to", if at all
    assert all(re.search(rf"(, | on )(an? )?({grounds})( background)?$", caption) for caption in told)
    pairs = [
        caption for caption in told if len(re.findall(r"on the (?:left|right)|at the (?:top|bottom)", caption)) == 2
    ]
    shapes = [caption for caption in told if re.search("circle|square|triangle|cross", caption)]
    assert 0.2 < len(pairs) / len(told) < 0.45 and 0.05 < len(shapes) / len(told) < 0.2
