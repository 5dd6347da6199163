"""Chroma Skip Blocks in runs of the host, and the pruned files that are saved from it."""

from types import SimpleNamespace

import pytest
import support
import torch
from host_models import lora_on, native_net, native_patcher, our_net, sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
LIMIT = 1e-6  # relative L2 in float32: the same blocks on the same streams
STEPS = 4
DOUBLE, SINGLE = "1", "0, 2-3"
BLOCKS = {("double", 1), ("single", 0), ("single", 2), ("single", 3)}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config(double=3, single=5)
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def load(comfy, inference, case):
    return lambda path=case[2], mode="auto": load_pack("host.model.load").load_chroma(str(path), mode)


def skip(model, double=DOUBLE, single=SINGLE, **more):
    node = load_pack("nodes.skip_blocks").ChromaSkipBlocks.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    return node.execute(model, double, single, **more).args[0]


def run(comfy, model, cfg, **more):
    return sample(comfy, model, cfg, steps=STEPS, **more)


def spy(model, name="single_block", index=2):
    """Another pack's replacement of a block: notes the change that the block makes, and adds to it."""
    seen, clone = [], model.clone()

    def replacement(args, extra):
        out = extra["original_block"](args)
        seen.append(float((out["img"] - args["img"]).norm()))
        return {**out, "img": out["img"] + torch.linspace(-0.1, 0.1, out["img"].shape[-1])}

    clone.set_model_patch_replace(replacement, "dit", name, index)
    return clone, seen


def test_equals_the_hosts_own_chroma_without_these_layers(comfy, inference):
    """The host's class has lists of layers that it skips; no node of its own fills them."""
    cfg = support.config(**support.FULL_DEPTH)
    weights = support.random_weights(cfg)
    native = native_net(comfy, cfg, weights)
    native.skip_mmdit, native.skip_dit = [3, 18], [0, 5, 6, 37]
    blocks = {("double_block", i) for i in native.skip_mmdit} | {("single_block", i) for i in native.skip_dit}
    skip_blocks = load_pack("host.run.skip_blocks")
    skipped = skip_blocks.SkippedBlock(skip_blocks.SkippedBlocks(frozenset()))
    x = support.inputs(cfg)
    call = x["x"], x["timesteps"], x["context"], torch.zeros(1)
    options = {"patches_replace": {"dit": dict.fromkeys(blocks, skipped)}}
    found = our_net(comfy, cfg, weights)(*call, transformer_options=options)
    error, change = support.relative(found, native(*call)), support.relative(found, our_net(comfy, cfg, weights)(*call))
    print(f"{error:.1e} from the host's, skipping changes {change:.2f}")
    assert error < 5e-6 and change > 0.05  # two implementations of 51 blocks in float32


def test_model_of_the_hosts_loader_is_taken(comfy, inference, case):
    cfg, weights, _ = case
    native = native_patcher(comfy, cfg, weights)
    assert support.relative(run(comfy, skip(native), cfg), run(comfy, native, cfg)) > 1e-2


def test_the_model_itself_is_not_changed_and_nothing_is_left_behind(comfy, load, case):
    model = load()
    before = run(comfy, model, case[0])
    assert support.relative(run(comfy, skip(model), case[0]), before) > 1e-2
    assert torch.equal(run(comfy, model, case[0]), before)
    assert skip(model, "", " ") is model


@pytest.mark.parametrize(
    "percent, steps", [((0.0, 1.0), [0, 1, 2, 3]), ((0.0, 0.3), [0, 1]), ((0.5, 1.0), [2, 3]), ((0.9, 1.0), [])]
)
@pytest.mark.parametrize("shift_after", [False, True])
def test_range_is_that_of_the_run(comfy, load, case, percent, steps, shift_after):
    """simple with shift 1 starts steps at 0, 0.25, 0.5 and 0.75 of the run."""
    load_shift = load_pack("nodes.shift").ChromaTimestepShift.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    model, seen = spy(load())
    shift = lambda m: load_shift.execute(m, "shift 1").args[0]  # noqa: E731
    model = shift(skip(model, "", "2", start_percent=percent[0], end_percent=percent[1])) if shift_after else skip(
        shift(model), "", "2", start_percent=percent[0], end_percent=percent[1]
    )  # fmt: skip
    run(comfy, model, case[0], scale=1.0)
    assert [i for i, change in enumerate(seen) if change == 0] == steps and len(seen) == STEPS


def test_replacement_of_another_pack_stays_around_the_block_that_is_left_out(comfy, load, case):
    cfg = case[0]
    model, seen = spy(load())
    run(comfy, skip(model), cfg, scale=1.0)
    assert seen == [0.0] * STEPS
    plain = run(comfy, skip(load()), cfg, scale=1.0)
    assert support.relative(run(comfy, skip(model), cfg, scale=1.0), plain) > 1e-4  # what it adds is there


def test_ranges_of_two_nodes_join(comfy, load, case):
    model, seen = spy(load())
    model = skip(skip(model, "", "2", end_percent=0.1), "", "2", start_percent=0.7)
    run(comfy, model, case[0], scale=1.0)
    assert [change == 0 for change in seen] == [True, False, False, True]


@pytest.mark.parametrize(
    "double, single, told",
    [
        ("3", "", "'3': this model has the double blocks 0 to 2"),
        ("", "2-9", "'2-9': this model has the single blocks 0 to 4"),
        ("4-1", "", "'4-1': this model has the double blocks 0 to 2"),
        ("one", "", "'one' in the list names no block; write numbers, e.g. 3, 4 or 0-5"),
        ("", "-1", "'-1' in the list names no block"),
        ("", "1.5", "'1.5' in the list names no block"),
        ("", "9" * 5000, "'9999.*9' in the list names no block"),
        ("x" * 5000, "", "'xxxx.{1,30}x' in the list names no block"),
    ],
)
def test_lists_that_name_no_block_are_told(load, double, single, told):
    with pytest.raises(ValueError, match=told):
        skip(load(), double, single)


def test_a_model_of_another_family_with_blocks_of_both_kinds_is_refused(comfy):
    """As HunyuanVideo, whose blocks are called with other streams."""
    network = torch.nn.Module()
    network.double_blocks = network.single_blocks = torch.nn.ModuleList([torch.nn.Identity()])
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=network))
    with pytest.raises(ValueError, match="neither Chroma nor FLUX. Connect Load Chroma Model"):
        load_pack("host.run.skip_blocks").num_blocks(model)


def test_range_that_ends_before_it_starts_is_told(load):
    with pytest.raises(ValueError, match="start must not lie behind end"):
        skip(load(), start_percent=0.6, end_percent=0.5)


# --- saved ------------------------------------------------------------------------------------------------------------


def saved(model, tmp_path, format, stem="out"):
    export = load_pack("loaders.checkpoint.write_quantised")
    path = tmp_path / (stem + export.EXPORTS[format].suffix)
    return path, load_pack("host.model.save").export_model(model, path, format)[1]


@pytest.mark.parametrize("format", ["bf16", "int8_convrot", "fp8_scaled", "q8_0", "q4_0"])
def test_saved_pruned_it_gives_the_pictures_of_the_whole_file_with_blocks_skipped(comfy, load, case, tmp_path, format):
    cfg = case[0]
    path, text = saved(skip(load()), tmp_path, format)
    whole, _ = saved(load(), tmp_path, format, "whole")
    assert "pruned: without the blocks double 1, single 0, single 2-3" in text
    again = load(path)
    error = support.relative(run(comfy, again, cfg), run(comfy, skip(load(whole)), cfg))
    print(f"{format}: {error:.1e}; {path.stat().st_size:,} bytes of {whole.stat().st_size:,}")
    assert error < LIMIT and again.model.model_config.chroma_config.left_out == BLOCKS


def test_lora_finds_its_blocks_in_a_pruned_model(comfy, load, case, tmp_path):
    """A LoRA made for the whole model: block 4 is still called block 4."""
    cfg, weights, _ = case
    lora = lora_on(weights, "single_blocks.4.linear2", "double_blocks.2.img_attn.proj", strength=2.0)
    add = lambda m: comfy.sd.load_lora_for_models(m, None, lora, 1.0, 0.0)[0]  # noqa: E731
    again = load(saved(skip(load()), tmp_path, "bf16")[0])
    whole = skip(load(saved(load(), tmp_path, "bf16", "whole")[0]))
    assert len(add(again).patches) == 2
    found = run(comfy, add(again), cfg)
    assert support.relative(found, run(comfy, add(whole), cfg)) < LIMIT
    assert support.relative(found, run(comfy, again, cfg)) > 1e-2


def test_skipped_for_a_part_of_the_run_blocks_stay_in_the_file(load, tmp_path):
    path, text = saved(skip(load(), end_percent=0.5), tmp_path, "bf16")
    assert "with the blocks double 1, single 0, single 2-3, which are left out for a part of the run only" in text
    assert load(path).model.model_config.chroma_config.left_out == frozenset()


def test_pruned_model_is_saved_and_pruned_again(comfy, load, case, tmp_path):
    once = load(saved(skip(load(), "1", ""), tmp_path, "bf16")[0])
    path, _ = saved(skip(once), tmp_path, "bf16", "twice")
    direct, _ = saved(skip(load()), tmp_path, "bf16", "direct")
    assert torch.equal(run(comfy, load(path), case[0]), run(comfy, load(direct), case[0]))


def test_all_double_blocks_cannot_be_saved_away(load, tmp_path):
    with pytest.raises(ValueError, match="all double blocks are left out. Keep one of them at least"):
        saved(skip(load(), "0-2", ""), tmp_path, "bf16")
    assert list(tmp_path.iterdir()) == []


def test_the_hosts_own_loader_refuses_a_pruned_file(comfy, load, tmp_path):
    """It would give blocks the modulations of others, and nobody would know why pictures are bad."""
    path, _ = saved(skip(load()), tmp_path, "bf16")
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        comfy.sd.load_diffusion_model(str(path))


def test_the_hosts_save_node_keeps_what_is_left_out(comfy, load, case, tmp_path):
    once = load(saved(skip(load()), tmp_path, "bf16")[0])
    sd = once.model.state_dict_for_unet() if hasattr(once.model, "state_dict_for_unet") else once.model.state_dict()
    path = support.write(tmp_path / "host.safetensors", {n: t.clone() for n, t in sd.items() if "diffusion_model" in n})
    assert load(path).model.model_config.chroma_config.left_out == BLOCKS


def test_report_tells_what_is_left_out(load, tmp_path):
    once = load(saved(skip(load()), tmp_path, "bf16")[0])
    text = load_pack("host.model.report").model_report(once)
    assert "pruned: without the blocks double 1, single 0, single 2-3" in text
