"""Text rows of training against transformers' T5 on all 512 rows."""

import pytest
import support
import torch

from demo import text_encoder, words

IDS = [[3, 9, 220, 308, 3, 20400, 30, 3, 9, 1131, 2458, 1], [1], [9, 2667, 13634, 1]]


def test_rows_are_those_of_transformers_with_the_trainers_mask():
    """The outer product of the token mask with itself: all 512 rows, in float32."""
    transformers = pytest.importorskip("transformers")
    layers = text_encoder.NUM_ACTIVE
    config = transformers.T5Config(
        d_model=text_encoder.WIDTH,
        d_kv=text_encoder.HEAD,
        d_ff=text_encoder.MLP,
        num_layers=layers,
        num_heads=len(text_encoder.OFFSETS),
        vocab_size=text_encoder.VOCABULARY,
        feed_forward_proj="relu",
    )
    weights = text_encoder.state_dict(layers)
    t5 = transformers.T5EncoderModel(config).eval()
    t5.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    rows, mask = words.TextEncoder(weights).encode(IDS)
    for prompt, row, seen in zip(IDS, rows, mask):
        n = len(prompt)
        valid = torch.arange(words.NUM_ROWS) < n
        hidden = torch.finfo(torch.float32).min
        outer = torch.zeros(1, 1, words.NUM_ROWS, words.NUM_ROWS).masked_fill(~(valid[:, None] & valid), hidden)
        ids = torch.tensor([prompt + [words.PAD] * (words.NUM_ROWS - n)])
        with torch.inference_mode():
            full = t5(input_ids=ids, attention_mask=outer).last_hidden_state[0]
        assert seen.sum() == n + 1 and not row[n + 1 :].any()
        assert support.relative(row[:n], full[:n]) < 2e-6  # float32
        assert support.relative(row[n], full[n]) < 5e-6
        assert torch.equal(full[n], full[-1])  # every pad is the same


def test_rows_do_not_depend_on_the_batch():
    encoder = words.TextEncoder()
    rows, _ = encoder.encode(IDS)
    alone, _ = encoder.encode(IDS[2:])
    torch.testing.assert_close(rows[2, : len(IDS[2]) + 1], alone[0], atol=1e-5, rtol=1e-5)


def test_order_of_two_things_changes_their_rows():
    """The same words, things swapped: "flat banana left, 3D fox right" against "flat fox left, 3D banana right"."""
    one = [3, 9, 2667, 13634, 30, 8, 646, 11, 3, 9, 220, 308, 20400, 30, 8, 269, 1]
    other = [20400 if i == 13634 else 13634 if i == 20400 else i for i in one]
    rows, _ = words.TextEncoder().encode([one, other])
    banana, banana_swapped = rows[0, one.index(13634)], rows[1, other.index(13634)]
    assert support.relative(banana, banana_swapped) > 0.5
