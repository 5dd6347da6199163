"""What a run will take by those before it: by formula, and the file that keeps them."""

import dataclasses
import json
import math
import threading

import pytest
import support

costs = support.dev.load_pack("advice.run_costs")
Graph = support.dev.load_pack("advice.queued_graph").Graph
Work, Cost = costs.Work, costs.Cost
HD = Work("ChromaDiffusionLoader unet_name=hd", "cpu", 1024, 1024, 1, 26, "euler", True)
GB = 2**30


def cost(work=HD, prompts=2.0, seconds=0.65, memory=9 * GB, **more):
    return Cost(work, prompts, seconds, memory, **more)


def on(work=HD, **more):
    return dataclasses.replace(work, **more)


def test_nothing_is_claimed_of_what_was_not_run():
    assert costs.expected(HD, []) == costs.NOT_YET
    others = [cost(on(model="another")), cost(on(device="cuda:0"))]
    assert (
        costs.expected(HD, others)
        == costs.NOT_YET
        == "expected: not run here yet; the first picture tells how long it takes"
    )


@pytest.mark.parametrize("more, prompts", [({}, 2), ({"guided": False}, 1), ({"sampler": "heun"}, 4)])
def test_a_guess_says_that_it_is_one(more, prompts):
    told = costs.guessed(on(**more), 6.0, 18 * GB)
    assert told.startswith(
        f"expected: about {26 * prompts * 6 / 60:.0f} min once loaded, guessed from the model's size for its"
    )
    assert told.endswith(f" first run here: 26 steps of {6 * prompts:.0f} s; more than 18.0 GB of memory")


def test_the_same_again_takes_as_long():
    told = costs.expected(HD, [cost(seconds=9.0), cost()])  # the newest counts
    assert told == "expected: 34 s once loaded, as before: 26 steps of 1.3 s; 9.0 GB of memory"  # 26 x 2 x 0.65
    told = costs.expected(on(steps=10), [cost()])
    assert told.startswith("expected: 13 s once loaded, as before: 10 steps of 1.3 s")


def test_another_size_is_scaled_by_tokens_and_their_squares():
    small = cost(on(width=512, height=512), seconds=0.15)
    step = 2 * 0.15 * (4096 * (1 + 4096 / (6 * 3072))) / (1024 * (1 + 1024 / (6 * 3072)))
    told = costs.expected(HD, [small])
    assert told == (
        f"expected: {26 * step:.0f} s once loaded, estimated from 512 x 512: 26 steps of {step:.2g} s; more than 9.0 GB of memory"
    )
    assert costs.expected(small.work, [cost()]).endswith("; less than 9.0 GB of memory")
    near, far = cost(on(width=896, height=896), seconds=0.5), cost(on(width=256, height=256), seconds=9.0)
    assert "estimated from 896 x 896" in costs.expected(HD, [near, far])
    pair = costs.expected(on(batch=2), [cost()])
    assert "68 s once loaded, estimated from 1024 x 1024: 26 steps of 2.6 s" in pair
    assert "from 2 of 1024 x 1024" in costs.expected(HD, [cost(on(batch=2))])


@pytest.mark.parametrize(
    "more, prompts", [({"guided": False}, 1), ({"sampler": "heun"}, 4), ({"sampler": "res_multistep"}, 2)]
)
def test_a_way_that_was_not_run_is_computed_by_rule_else_as_it_was(more, prompts):
    work = on(**more)
    assert f"26 steps of {prompts * 0.65:.2g} s" in costs.expected(work, [cost()])
    assert "26 steps of 0.98 s" in costs.expected(work, [cost(), cost(on(work, width=512), prompts=1.5)])  # 1.5 x 0.65
    if "guided" in more:  # another number of prompts at once needs other memory
        assert "memory" not in costs.expected(work, [cost()])


def test_memory_that_is_not_known_is_not_told():
    assert "memory" not in costs.expected(HD, [cost(memory=0)])


def test_savings_depend_on_the_steps():
    assert costs.savings_text({}, 0, 26) == ""
    assert costs.savings_text({"alternate": True}, 3, 26) == "alternate True, skip_first_steps 3 of 26"


def graph(**loader):
    nodes = {
        "1": ("ChromaDiffusionLoader", {"unet_name": "hd.safetensors", "quant_mode": "auto", "x": 1, **loader}),
        "2": ("ChromaLoraLoader", {"model": ["1", 0], "lora_name": "a.safetensors", "strength": 0.5}),
        "3": ("ModelSamplingAuraFlow", {"model": ["2", 0], "shift": 1.0}),
        "4": ("ChromaCache", {"model": ["3", 0], "limit": 0.25}),
        "5": ("ChromaKSampler", {"model": ["4", 0]}),
    }
    return Graph({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()})


def model(found):
    return costs.model_of(found, found.model_chain("5"))


def test_a_model_is_its_file_precision_and_what_changes_the_network():
    want = (
        "ChromaCache limit=0.25 < ChromaLoraLoader < ChromaDiffusionLoader quant_mode=auto unet_name=hd.safetensors x=1"
    )
    assert model(graph()) == model(graph(x=1.0)) == want
    assert model(graph(quant_mode="q8_0")) != want != model(graph(unet_name="base.safetensors"))
    assert costs.model_of(graph(unet_name=""), ["1"]) == ""  # a loader without a file
    assert costs.model_of(graph(), []) == ""


# --- the file --------------------------------------------------------------------------------------------------------


def test_file_keeps_runs_in_order_the_last_of_each_work(tmp_path):
    path = tmp_path / "new" / "costs.json"
    assert costs.read(path) == []
    for one in (cost(), cost(on(steps=8)), cost(seconds=0.7)):
        costs.add(path, one)
    assert costs.read(path) == [cost(on(steps=8)), cost(seconds=0.7)]
    assert [p.name for p in path.parent.iterdir()] == ["costs.json"]


def test_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "MAX_KEPT", 3)
    for steps in range(1, 6):
        costs.add(tmp_path / "c.json", cost(on(steps=steps)))
    assert [one.work.steps for one in costs.read(tmp_path / "c.json")] == [3, 4, 5]
    (tmp_path / "c.json").write_text("[" * (costs.MAX_BYTES + 1))
    assert costs.read(tmp_path / "c.json") == []


ROW = dataclasses.asdict(cost())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"version": 1}', '{"version": 2, "runs": []}', '{"version": 1, "runs": {"0": 1}}',
     '{"version": 1, "runs": 5}', "[" * 100_000, "\ufffd"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_written_anew(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    assert costs.read(path) == []
    costs.add(path, cost())
    assert costs.read(path) == [cost()]


@pytest.mark.parametrize(
    "change",
    [{"seconds": "1"}, {"seconds": -1.0}, {"seconds": math.nan}, {"prompts": 0}, {"memory": None}, {"more": 1},
     {"work": None}, {"work": {**ROW["work"], "width": 0}}, {"work": {**ROW["work"], "model": 3}},
     {"work": {**ROW["work"], "guided": "yes"}}, {"work": {}}],
    ids=str,
)  # fmt: skip
def test_a_damaged_row_is_left_out_alone(tmp_path, change):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"version": 1, "runs": [ROW, {**ROW, **change}, 3]}))
    assert costs.read(path) == [cost()]


def test_servers_that_write_at_once_leave_a_whole_file(tmp_path):
    path, seen = tmp_path / "c.json", []
    costs.add(path, cost())
    writers = [
        threading.Thread(target=lambda n=n: [costs.add(path, cost(on(steps=n * 100 + i))) for i in range(1, 20)])
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.append(len(json.loads(path.read_text())["runs"]))
    assert all(seen) and len(costs.read(path)) == 77  # 1 + 4 x 19: within one server none is lost
