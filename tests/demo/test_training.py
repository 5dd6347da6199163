"""The training scripts: seeded, restartable, and learning."""

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

pytestmark = [pytest.mark.slow, pytest.mark.host]


class FewCaptions:
    """Random embeddings instead of the encoder's, so that a step takes no set-up."""

    def __init__(self, *_):
        from demo import pictures

        self.scenes = [s for s in pictures.all_scenes() if not pictures.is_held_out(s.combinations()[0])][::200]
        self.num_single = len(self.scenes)
        generator = torch.Generator().manual_seed(0)
        self.rows = [torch.randn(4, 768, generator=generator) for _ in range(2 * len(self.scenes) + 1)]
        self.ends = range(len(self.rows) + 1)

    def embedding(self, index):
        return self.rows[index]

    def batch(self, rng):
        picks = rng.integers(len(self.scenes), size=4)
        context = torch.stack([self.rows[2 * i] for i in picks])
        return [self.scenes[i] for i in picks], context, torch.ones(4, 4, dtype=torch.bool)


def test_a_restarted_run_ends_as_an_unbroken_one(comfy, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from demo import train_transformer as training

    monkeypatch.setattr(training, "Captions", FewCaptions)
    monkeypatch.setattr(training, "watch", lambda *_: "")
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    threads = torch.get_num_threads()

    def run(folder, steps):
        monkeypatch.setattr(
            "sys.argv", ["train", "--out", str(tmp_path / folder), "--steps", str(steps), "--threads", "1"]
        )
        training.main()
        return load_file(tmp_path / folder / "chroma-demo.safetensors")

    # The rate's curve depends on the number of steps, so the broken run is cut by an error, not by a smaller number.
    whole = run("whole", 4)
    original = training.loss_of
    calls = []

    def fail_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "loss_of", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        run("broken", 4)
    monkeypatch.setattr(training, "loss_of", original)
    again = run("broken", 4)
    torch.set_num_threads(threads)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    fresh = training.build_model().state_dict()
    assert any(not np.allclose(whole[k].float(), fresh[k]) for k in whole)
