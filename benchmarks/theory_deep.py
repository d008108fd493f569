"""Deep models, and initialisations far from the usual: hot scores, full rank collapse.

BERT's loss counts every token here: with 15 % of them, few gradients enter and scatter more.
"""

from __future__ import annotations

from benchmarks.theory_models import (
    Case,
    Shape,
    bert,
    from_config,
    gated_sizes,
    gpt2,
    llama,
)

DEEP, DEEPEST = Shape(48, 256, 8), Shape(192, 256, 8)
SHORT, FEW = 64, 4  # tokens and sequences: what a deep model on one core leaves time for
USUAL_STD = 0.02
HOT_STD = USUAL_STD * 10**0.25  # a score's variance goes with the fourth power
COLLAPSING_STD = 0.06

DEEP_CASES = (
    Case("GPT-2, 48 layers", lambda: gpt2(DEEP), size=FEW),
    Case("BERT, 48 layers", lambda: bert(DEEP), size=FEW, draws=6),
    Case("Llama, 48 layers", lambda: llama(DEEP), size=FEW, draws=8),
    Case(
        "OLMo 2, 48 layers",
        lambda: from_config("Olmo2", "ForCausalLM", **gated_sizes(DEEP)),
        size=FEW,
        draws=8,
    ),
    Case("GPT-2, 192 layers", lambda: gpt2(DEEPEST), size=FEW, context=SHORT),
    Case("BERT, 192 layers", lambda: bert(DEEPEST), size=FEW, context=SHORT, draws=6),
)
HOT_SHAPE = Shape(12, 256, 8)
HOT_CASES = (
    Case("GPT-2, scores 10x", lambda: gpt2(HOT_SHAPE, std=HOT_STD), draws=6),
    Case(
        "BERT, scores 10x",
        lambda: bert(HOT_SHAPE, std=HOT_STD),
        batch="masked",
        draws=6,
    ),
    Case("Llama, scores 10x", lambda: llama(HOT_SHAPE, std=HOT_STD), draws=16),
)
COLLAPSED_CASES = (
    Case(
        "BERT, 96 layers, std 0.06",
        lambda: bert(Shape(96, 256, 8), std=COLLAPSING_STD),
        size=2,
        context=SHORT,
        draws=8,
    ),
)
