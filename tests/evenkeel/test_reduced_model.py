"""Models described in reduced form from their configs, against the same models built in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import dslm
import trainer_agent
from dslm.kernels.grid import correlation, mean_diagonal
from evenkeel.prediction import reduced_model
from evenkeel.prediction.changed_settings import with_layers, with_small_vocabulary
from evenkeel.prediction.model_settings import reason_of
from evenkeel.prediction.reduced_model import describe_config
from evenkeel.prediction.zipf import zipf_ids
from server.errors import StartError

NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
LLAMA = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8}
LLAMA |= {"num_key_value_heads": 2, "num_hidden_layers": 2}
GPT2 = {"n_embd": 512, "n_layer": 2, "n_head": 8}
T5 = {"d_model": 512, "d_ff": 1024, "num_heads": 8, "d_kv": 64, "num_layers": 2}
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

    assert spec.n_params == expected.n_params
    # Of a model without its loss the gradient at the top is assumed; a config has none to ask.
    missing = [each for each in expected.missing if each.what != "top gradient"]
    assert list(spec.missing) == missing
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_narrow_copy_has_the_sizes_and_moments_of_the_full_width(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"llama": LLAMA, "gpt2": GPT2, "t5": T5}[family] | {"model_type": family}
    expected, _ = describe_config(wide, 32)

    monkeypatch.setattr(reduced_model, "NARROWED_FROM", 1)
    spec, notes = describe_config(wide, 32)

    assert any("blocks were read at 1/2 of their width" in note for note in notes)
    for name, stack in expected.stacks.items():
        narrow, full = spec.stacks[name].blocks[-1], stack.blocks[-1]
        assert narrow is not None and full is not None
        for part in ("query", "key", "value", "output"):
            a, b = getattr(narrow.attention, part), getattr(full.attention, part)
            assert (a.d_in, a.d_out) == (b.d_in, b.d_out)
            assert a.weight_var == pytest.approx(b.weight_var, rel=0.03)  # 512 * 128 entries
        assert narrow.attention.n_kv_heads == full.attention.n_kv_heads
        assert narrow.attention.score_scale == pytest.approx(full.attention.score_scale)
        down = full.feed_forward.down
        assert (narrow.feed_forward.down.d_in, narrow.feed_forward.down.d_out) == (
            down.d_in,
            down.d_out,
        )
        np.testing.assert_allclose(
            spec.stacks[name].input_kernel.diagonal, stack.input_kernel.diagonal, rtol=0.1
        )  # not the same draws: 512 features times 8 sequences


def test_width_that_goes_by_older_names_is_made_narrow() -> None:
    settings = {
        "model_type": "bloom",
        "n_embed": 14336,
        "n_layer": 4,
        "num_attention_heads": 112,
        "vocab_size": 512,
    }

    spec, notes = describe_config(settings, 16)

    assert (spec.stacks["decoder"].d_model, len(spec.stacks["decoder"].blocks)) == (14336, 4)
    assert any("1/16 of their width" in note for note in notes)


def test_width_of_any_size_is_answered() -> None:
    huge = settings("llama") | {"hidden_size": 65_536, "intermediate_size": 262_144}

    spec, _ = describe_config(huge | {"num_attention_heads": 512, "num_key_value_heads": 64}, 32)

    block = spec.stacks["decoder"].blocks[0]
    assert block is not None and block.attention.n_heads == 512
    assert block.attention.key.d_out == 64 * 128
    assert block.attention.query.weight_var == pytest.approx(4e-4, rel=0.02)


@pytest.mark.parametrize(
    ("model_type", "n_experts", "width"), [("mixtral", 8, 14336), ("deepseek_v3", 256, 2048)]
)
def test_experts_of_any_width_are_described_at_their_own(
    model_type: str, n_experts: int, width: int
) -> None:
    spec, _ = describe_config({"model_type": model_type}, 32)

    layer = spec.stacks["decoder"].blocks[-1].feed_forward  # type: ignore[union-attr]
    assert layer.experts is not None and layer.experts.router.d_out == n_experts
    assert layer.up.d_out == width
    assert layer.up.weight_var == pytest.approx(4e-4, rel=0.02)
    assert dslm.predict(spec).missing == ()


@pytest.mark.parametrize(
    ("model_type", "sizes", "sentence"),
    [
        ("mamba", {}, "a state-space recurrence"),
        ("whisper", {}, "whisper reads input_features, not token ids"),
        ("speech_to_text", {}, "speech_to_text reads input_features"),
        ("moonshine", {}, "moonshine reads input_values"),
        ("qwen3", {"num_hidden_layers": 28, "layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen3", {"num_hidden_layers": "28"}, "num_hidden_layers is '28': give a whole number"),
        ("llama", {"num_hidden_layers": 28.0}, "num_hidden_layers is 28.0: give a whole number"),
        ("llama", {"vocab_size": -5}, "vocab_size is -5: give a positive number"),
        ("gpt2", {"n_embd": 0}, "n_embd is 0: give a positive number"),
        ("llama", {"hidden_size": 30, "num_attention_heads": 4}, "transformers cannot build it"),
        ("llama", {"hidden_act": "no-such"}, "transformers cannot build it"),
        ("llama", {"vocab_size": 10**9}, "vocab_size is 1000000000: give at most 10,000,000"),
        ("gpt2", {"n_layer": 10**9}, "n_layer is 1000000000: give at most 2,000"),
        ("llama", {"text_config": 3}, "text_config is 3: give an object, or none"),
        ("gpt2", {"activation_function": "x" * 5000}, "x{250,300}… is missing$"),
    ],
)
def test_config_beyond_the_theory_or_wrong_is_one_sentence(
    model_type: str, sizes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence) as refusal:
        describe_config({"model_type": model_type} | sizes, None)

    assert len(str(refusal.value).splitlines()) == 1


def test_how_a_checkpoint_is_stored_and_labelled_is_not_read() -> None:
    stored = {"quantization_config": {"quant_method": "gptq", "bits": 4}, "id2label": 3}
    stored |= {"torch_dtype": "no-such", "_attn_implementation": []}

    spec, _ = describe_config(settings("llama") | stored, 16)

    assert len(spec.stacks["decoder"].blocks) == 3


def test_weights_that_no_rule_fills_begin_as_their_constructor_has_them() -> None:
    """OpenAI's first GPT has dense maps that transformers' rule passes by."""
    tiny = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 300}

    spec, _ = describe_config({"model_type": "openai-gpt"} | tiny, 16)

    (block, _) = spec.stacks["decoder"].blocks
    assert block is not None
    assert block.feed_forward.up.weight_var == pytest.approx(0.02**2, rel=0.05)  # 16,384 draws
    assert block.feed_forward.up.bias_var == 0


def test_reasons_say_what_is_wrong_with_a_setting() -> None:
    assert reason_of(KeyError("rope_type")) == "'rope_type' is missing"
    assert reason_of(KeyError("Missing keys in `rope`")) == "Missing keys in `rope`"
    wrong = reason_of(AttributeError("'int' object has no attribute 'items'"))
    assert wrong.startswith("a setting is a number where another kind is needed")


def test_text_model_inside_another_is_used_and_named() -> None:
    inner = {"model_type": "llama", "vocab_size": 300} | CONFIGS["llama"]

    spec, notes = describe_config({"model_type": "llava", "text_config": inner}, 16)

    assert notes[0].startswith("the text model inside llava (text_config)")
    assert (len(spec.stacks["decoder"].blocks), spec.stacks["decoder"].d_model) == (3, 64)


@pytest.mark.parametrize("model_type", list(CONFIG_MAPPING)[::40])
def test_any_model_type_is_described_or_refused_in_a_sentence(model_type: str) -> None:
    try:
        spec, _ = describe_config({"model_type": model_type}, 16)
    except StartError as error:
        assert len(str(error).splitlines()) == 1
    else:
        curves = dslm.predict(spec).stacks.values()
        assert not any(np.isnan(stack.forward.variance).any() for stack in curves)


def test_transformers_that_would_lose_buffers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "4.57.1")

    with pytest.raises(StartError, match="pip install 'transformers>=5'"):
        describe_config(settings("gpt2"), 32)
