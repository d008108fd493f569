"""Models described in reduced form from their configs, against the same models built in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import dslm
import trainer_agent
from dslm.kernels.grid import correlation, mean_diagonal
from evenkeel.prediction.changed_settings import with_layers, with_small_vocabulary
from evenkeel.prediction.reduced_model import describe_config
from evenkeel.prediction.zipf import zipf_ids
from server.errors import StartError

NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 4, "n_embd": 64, "n_head": 4, "n_positions": 32},
    "bert": NARROW | {"num_hidden_layers": 3},
    "roberta": NARROW | {"num_hidden_layers": 3},
    "llama": NARROW | {"num_hidden_layers": 3, "num_key_value_heads": 2},
    "gemma2": NARROW | {"num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 16},
    "bart": {
        "d_model": 64,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    },
}


def settings(family: str) -> dict[str, Any]:
    return {"model_type": family} | CONFIGS[family]


def full_spec(family: str) -> dslm.ModelSpec:
    """The full model, described on the ids that the reduced one renumbers."""
    config = transformers.AutoConfig.for_model(**settings(family))
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).train()
    ids = torch.from_numpy(zipf_ids(config.vocab_size, 32, (0, 1, 2)))
    batch = {"input_ids": ids}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids
    return trainer_agent.describe(model, batch)


@pytest.mark.parametrize("family", CONFIGS)
def test_reduced_model_has_the_moments_of_the_full_one(family: str) -> None:
    expected = full_spec(family)

    spec, _ = describe_config(settings(family), 32)

    assert spec.n_params == expected.n_params and spec.missing == expected.missing
    for name, stack in expected.stacks.items():
        reduced = spec.stacks[name]
        assert len(reduced.blocks) == len(stack.blocks)
        for block, full_block in zip(reduced.blocks, stack.blocks, strict=True):
            assert block is not None and full_block is not None
            assert block.attention.window == full_block.attention.window
            # matrices of at least 64 × 32 entries: 6 standard errors of a variance are 19 %
            for part in ("query", "key", "value", "output"):
                a, b = getattr(block.attention, part), getattr(full_block.attention, part)
                assert a.weight_var == pytest.approx(b.weight_var, rel=0.19)
            down = full_block.feed_forward.down.weight_var
            assert block.feed_forward.down.weight_var == pytest.approx(down, rel=0.15)
        energy = mean_diagonal(stack.input_kernel)  # rows of 64, fewer than 256 of them distinct
        assert mean_diagonal(reduced.input_kernel) == pytest.approx(energy, rel=0.1)
        correlated = correlation(stack.input_kernel)
        # BERT's tokens share one segment's row: 64 entries, whose variance scatters by 18 %
        scatter = 0.15 if "bert" in family else 0.05
        assert correlation(reduced.input_kernel) == pytest.approx(correlated, abs=scatter)


def test_initialisation_that_scales_with_depth_sees_the_full_depth() -> None:
    spec, notes = describe_config(settings("gpt2"), 32, layers=50)

    blocks = spec.stacks["decoder"].blocks
    assert len(blocks) == 50
    assert blocks[49] is not None
    # GPT-2 draws what adds to the stream with std 0.02/√(2N); 64 × 64 entries: 3 % at 1.3 sigma
    assert blocks[49].attention.output.weight_var == pytest.approx(4e-4 / 100, rel=0.1)
    assert notes == ("1 of 50 blocks were built; the others have the moments of their kind",)


def test_blocks_that_depend_on_their_number_are_all_built() -> None:
    spec, notes = describe_config(settings("gpt2") | {"scale_attn_by_inverse_layer_idx": True}, 32)

    blocks = spec.stacks["decoder"].blocks
    assert notes == ()
    assert [round(1 / block.attention.score_scale) for block in blocks if block] == [4, 8, 12, 16]


def test_pattern_of_layers_goes_on_at_another_depth() -> None:
    types = ["full_attention", "full_attention", "sliding_attention"]
    changed = with_layers(settings("gemma2") | {"num_hidden_layers": 3, "layer_types": types}, 7)

    assert changed["num_hidden_layers"] == 7
    assert changed["layer_types"] == [*types, *types, "full_attention"]


def test_few_ids_keep_which_tokens_are_equal() -> None:
    config = {"model_type": "gpt2", "vocab_size": 50_257}

    small, ids = with_small_vocabulary(config, 64)

    drawn = zipf_ids(50_257, 64, (50_256,))
    assert small["vocab_size"] < 600
    equal = drawn[:, :, None] == drawn[:, None, :]
    np.testing.assert_array_equal(ids[:, :, None] == ids[:, None, :], equal)
    assert small["eos_token_id"] < small["vocab_size"] and int(ids.max()) < small["eos_token_id"]


def test_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(StartError, match="vocab_size"):
        describe_config({"model_type": "vit"}, 32)


def test_context_beyond_the_positions_names_the_option() -> None:
    with pytest.raises(StartError, match=r"--context 33: the model has 32 positions"):
        describe_config(settings("gpt2"), 33)


def test_model_too_wide_to_build_is_refused_before_it_is_built() -> None:
    huge = settings("llama") | {"hidden_size": 65_536, "intermediate_size": 262_144}

    with pytest.raises(StartError, match="parameters must be built"):
        describe_config(huge | {"num_attention_heads": 512}, 32)


def test_transformers_that_would_lose_buffers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "4.57.1")

    with pytest.raises(StartError, match="pip install 'transformers>=5'"):
        describe_config(settings("gpt2"), 32)
