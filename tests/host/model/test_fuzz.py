"""Damaged files through the whole loader: refused with one ValueError, or a model that runs and tells of NaN."""

import logging
import random
from collections import Counter

import fuzz
import pytest
import support
import torch
from host_models import sample as run

pytestmark = pytest.mark.host

TRIED = 120  # mutations a sample, of which these many are taken through the host
LOADED, REFUSED = 6, 3
MEMORY = 4 << 30  # the host's own workspace included


def few(folder, sample, seed):
    """Mutations of different kinds, some that load without a host and some that do not, with whether they do."""
    found = {True: [], False: []}
    for mutation in fuzz.mutations(sample, TRIED, seed):
        try:
            with fuzz.guarded():
                fuzz.load(fuzz.write(folder, sample, mutation))
            found[True].append(mutation)
        except ValueError:
            found[False].append(mutation)
    rng = random.Random(seed)
    for loads, count in ((True, LOADED), (False, REFUSED)):
        rng.shuffle(found[loads])
        kinds = {mutation.kind: mutation for mutation in found[loads]}
        yield from ((mutation, loads) for mutation in list(kinds.values())[:count])


def outcome(comfy, path, caplog):
    """(what happened, None or why that is wrong)."""
    load_chroma = support.dev.load_pack("host.model.load").load_chroma
    caplog.clear()
    try:
        with fuzz.guarded(seconds=60, memory=MEMORY, silent=False):
            model = load_chroma(str(path))
            out = run(comfy, model, model.model.model_config.chroma_config, steps=1, size=(4, 4), tokens=(3, 3))
    except ValueError as error:
        problems = [fuzz.problem_of(str(error), file.name) for file in path.parent.iterdir()]
        return "refused", None if None in problems else f"{problems[0]}: {str(error)[:200]!r}"
    except (Exception, fuzz.Hang) as error:
        return "crashed", f"{type(error).__name__}: {str(error)[:200]}"
    if torch.isfinite(out).all():
        return "finite", None
    told = any(path.name in text and "NaN" in text for text in caplog.messages)
    return "NaN", None if told else "NaN without a warning that names the file"


@pytest.mark.parametrize("key", fuzz.SAMPLES)
def test_damage_is_refused_or_runs_or_is_warned_about(comfy, inference, tmp_path, caplog, key):
    caplog.set_level(logging.WARNING)
    made, tried, folder = (tmp_path / name for name in ("made", "tried", "files"))
    for path in (made, tried, folder):
        path.mkdir()
    sample = fuzz.SAMPLES[key](made)
    assert outcome(comfy, fuzz.write(folder, sample), caplog) == ("finite", None)
    counts, wrong = Counter(), []
    for i, (mutation, loads) in enumerate(few(tried, sample, seed=3)):
        own = folder / str(i)  # a mapped file must not be written again
        own.mkdir()
        found, problem = outcome(comfy, fuzz.write(own, sample, mutation), caplog)
        counts[found] += 1
        if not loads and found != "refused":
            problem = problem or "loads, but is refused without a host"
        if problem:
            wrong.append(f"{mutation.kind}: {mutation.what}: {problem}")
    print(f"{key}: {dict(counts)}")
    assert not wrong, "\n".join(wrong)
    assert counts["refused"] >= REFUSED and counts["finite"] + counts["NaN"] > 0
