"""Which inputs a column fills, and values as the inputs take them."""

import copy

import pytest
from small_flow import INFO, PROMPT

from tools.batching import fill
from tools.batching.fill import Row
from tools.batching.workflow import Converted, Place

FLOW = Converted(PROMPT)


def filled(*rows, flow=FLOW):
    return fill.fill(flow, [Row(i, values) for i, values in enumerate(rows, 1)], INFO)


@pytest.mark.parametrize(
    "name, place",
    [
        ("seed", ("5", "seed")),
        ("Seed ", ("5", "seed")),
        ("noise_seed", ("5", "seed")),
        ("KSampler.seed", ("5", "seed")),
        ("5.seed", ("5", "seed")),
        ("Sample.seed", ("5", "seed")),
        ("prompt", ("2", "text")),
        ("negative prompt", ("3", "text")),
        ("One", ("2", "text")),
        ("Two. Negative.text", ("3", "text")),
        ("KSampler.curve.alpha", ("5", "curve.alpha")),
        ("KSampler.steps", ("5", "steps")),  # by its whole name, although a link is connected
        ("width", ("6", "width")),
    ],
)
def test_a_column_is_found_by_name_title_or_what_it_leads_to(name, place):
    assert fill.places_of(name, FLOW, INFO) == [Place(*place)]


def test_a_widget_of_a_subgraph_fills_all_inputs_behind_it():
    flow = Converted(PROMPT, {("Paint", "look"): [Place("2", "text"), Place("3", "text")]})
    for name in ("look", "Paint.look"):
        (job,) = filled({name: "z"}, flow=flow).jobs
        assert [job.prompt[key]["inputs"]["text"] for key in "23"] == ["z", "z"]


@pytest.mark.parametrize(
    "name, told",
    [
        ("sed", r"the column 'sed' fills no input of the workflow. Its inputs are unet_name, text, .*seed"),
        ("steps", r"the column 'steps' fills no input"),  # a link is connected
        ("Nobody.seed", r"the column 'Nobody.seed' fills no input .*'node title.input'. Begin the name with #"),
        ("text", r"the column 'text' could fill 'One.text', 'Two. Negative.text'. Write one of these as its name"),
    ],
)
def test_a_column_that_fills_nothing_or_too_much_is_told(name, told):
    with pytest.raises(ValueError, match=told):
        filled({name: "1"})


def test_two_columns_for_one_input_are_told():
    with pytest.raises(ValueError, match="the columns 'seed' and 'KSampler.seed' both fill KSampler.seed. Remove one"):
        filled({"seed": "1", "KSampler.seed": "2"})


def test_remarks_fill_nothing():
    (job,) = filled({"#note": "x", "seed": "2"}).jobs
    assert job.prompt["5"]["inputs"]["seed"] == 2 and PROMPT["5"]["inputs"]["seed"] == 1


@pytest.mark.parametrize(
    "name, given, taken",
    [
        ("seed", "18446744073709551615", 2**64 - 1),
        ("seed", 7.0, 7),
        ("seed", "26.0", 26),  # as pandas writes a whole number where a cell of its column is empty
        ("cfg", "3", 3.0),
        ("tiled", "Yes", True),
        ("tiled", False, False),
        ("unet_name", "b.gguf", "b.gguf"),
        ("curve", "linear", "linear"),
        ("prompt", 5, "5"),
    ],
)
def test_values_become_what_the_input_takes(name, given, taken):
    (job,) = filled({name: given}).jobs
    (place,) = fill.places_of(name, FLOW, INFO)
    found = job.prompt[place.node]["inputs"][place.name]
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(
    "name, given, told",
    [
        ("seed", "many", "seed is 'many', expected a whole number from 0 to 18446744073709551615"),
        ("seed", "1.5", "seed is '1.5', expected a whole number from 0"),
        ("seed", True, "seed is True, expected a whole number from 0"),
        ("seed", "-1", "seed is '-1', expected a whole number from 0"),
        ("seed", "inf", "seed is 'inf', expected a whole number from 0"),
        pytest.param("cfg", 10**400, "cfg is 1000", id="too large for a float"),
        ("cfg", "nan", "cfg is 'nan', expected a number from 0.0 to 100.0"),
        ("cfg", "101", "cfg is '101', expected a number from 0.0 to 100.0"),
        ("tiled", "perhaps", "tiled is 'perhaps', expected true or false"),
        ("unet_name", "c.gguf", "unet_name is 'c.gguf', expected one of a.gguf, b.gguf"),
        ("curve", "gamma", "curve is 'gamma', expected one of beta, linear"),
        ("prompt", ["a"], 'prompt is ["a"], expected text'),
    ],
)
def test_a_wrong_value_refuses_its_row_alone(name, given, told):
    found = filled({name: given}, {"seed": "5"})
    assert [job.rows[0].number for job in found.jobs] == [2]
    (row,) = found.refused
    assert row.number == 1 and row.error.startswith(told)


def test_of_many_choices_those_that_are_alike_are_named_first():
    names = [f"sampler_{i}" for i in range(40)]
    told = fill.PLACES.one_of([*names, "res_multistep"], "RES_multi_step")
    assert told == f"res_multistep, {', '.join(names[:7])} and 33 more"
    assert fill.PLACES.one_of(["b.gguf", "a.gguf"], "a.ggu") == "b.gguf, a.gguf"


SAMPLER = {"seed": 1, "steps": 26, "cfg": 3.5, "quality": "standard"}
OWN_INFO = {
    "ChromaKSampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 99}],
                "steps": ["INT", {"min": 1, "max": 99, "display_name": "number of steps"}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 99.0}],
            },
            "optional": {"quality": ["COMBO", {"options": ["custom", "standard", "draft"]}], "settings": ["S", {}]},
        }
    }
}


def sampled(values, **inputs):
    """What a row makes of a Chroma KSampler, or why it is refused."""
    flow = Converted({"1": {"class_type": "ChromaKSampler", "inputs": {**SAMPLER, **inputs}, "_meta": {"title": "K"}}})
    found = fill.fill(flow, [Row(1, values)], OWN_INFO)
    return found.refused[0].error if found.refused else found.jobs[0].prompt["1"]["inputs"]


@pytest.mark.parametrize(
    "values, changed",
    [
        ({"seed": 2}, {"seed": 2}),
        ({"steps": 4}, {"steps": 4, "quality": "custom"}),  # else standard would stand in its place
        ({"quality": "draft"}, {"quality": "draft"}),
        ({"quality": "custom", "cfg": 5}, {"quality": "custom", "cfg": 5.0}),
        ({"cfg": 5, "quality": "custom"}, {"quality": "custom", "cfg": 5.0}),
        ({"K.number of steps": 4}, {"steps": 4, "quality": "custom"}),  # by the name that the page shows
        ({"number of steps": 4}, {"steps": 4, "quality": "custom"}),
    ],
)
def test_what_a_row_sets_counts(values, changed):
    assert sampled(values) == {**SAMPLER, **changed}


def test_what_would_do_nothing_is_refused():
    told = "steps does nothing while quality is draft. Leave out one of them, or take custom"
    assert sampled({"steps": 4, "quality": "draft"}) == sampled({"quality": "draft", "steps": 4}) == told
    assert sampled({"steps": 4}, settings=["2", 0]).startswith(
        "steps does nothing here: the connected settings have it"
    )
    assert sampled({"seed": 4}, settings=["2", 0])["seed"] == 4


def test_equal_settings_are_one_job_and_its_name_depends_on_all_of_them():
    first, other = filled({"seed": 1}, {"seed": "1"}, {"seed": 2}).jobs
    assert [row.number for row in first.rows] == [1, 2] and first.name != other.name
    titled = copy.deepcopy(PROMPT)
    titled["5"]["_meta"]["title"] = "Another"
    assert fill.name_of(titled) == fill.name_of(PROMPT) == first.name  # a title changes no pixel
    assert len(first.name) == fill.HASH_CHARS


def test_rows_are_grouped_by_what_they_load_then_by_size():
    rows = [{"unet_name": f"{m}.gguf", "width": w, "seed": s} for s in (1, 2) for w in (64, 128) for m in "ba"]
    order = [
        (i["1"]["inputs"]["unet_name"][0], i["6"]["inputs"]["width"], i["5"]["inputs"]["seed"])
        for i in (job.prompt for job in filled(*rows).jobs)
    ]
    assert order == [(m, w, s) for m in "ba" for w in (64, 128) for s in (1, 2)]


PICTURE_INFO = {
    "LoadImage": {"input": {"required": {"image": ["COMBO", {"options": ["a.png"], "image_upload": True}]}}}
}


def test_a_picture_is_looked_for_in_the_current_folder_then_in_the_tables(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "both.png").write_text(folder.name)
    (beside / "one.png").touch()
    monkeypatch.chdir(here)
    flow = Converted({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}})
    names = ("both.png", "one.png", str(beside / "both.png"), "a.png", "none.png", "~nobody/x.png")
    rows = [Row(i, {"image": name}) for i, name in enumerate(names)]
    found = fill.fill(flow, rows, PICTURE_INFO, beside / "rows.csv")
    uploads = {job.rows[0].number: list(job.uploads.values()) for job in found.jobs}
    assert uploads == {0: [here / "both.png"], 1: [beside / "one.png"], 2: [beside / "both.png"], 3: []}
    assert [row.error for row in found.refused] == [
        f"image is {name!r}, expected one of a.png, or a file in {here} or {beside}" for name in names[4:]
    ]
