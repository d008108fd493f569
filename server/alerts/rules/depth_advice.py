"""What to do, with the figures of this model's depth."""

from __future__ import annotations

import dslm
from server.alerts.rules.finding import Advice, ScalingAdvice
from server.alerts.rules.observation import StackFacts

SNIPPET = "import trainer_agent\n\nreport = trainer_agent.deepscale(model)  # before the optimizer"

CLIP = Advice(
    "Clip the gradient norm, lower the learning rate or lengthen the warm-up. If it stays, look "
    "at which layer's gradient variance left its prediction first."
)
PRE_LN = Advice(
    "Pre-LN does not collapse by depth alone: lower the learning rate, lengthen the warm-up or "
    "clip gradients, and look for one block whose output outweighs the stream."
)
MASKED = Advice(
    "Lengthen the warm-up, to 100 steps or more: two Post-LN runs that failed ended 1.4 nats lower "
    "with it; half the learning rate helped less. DeepScaleLM, "
    'trainer_agent.deepscale(model, form="balanced"), is something to try: on byte-level BERTs of '
    "24 layers no form trained better than the plain model within 300 steps."
)
NOT_DESCRIBED = Advice(
    "The blocks of this model could not be described, so no scaling can be named for it. In "
    "Post-LN the depth itself is the likely cause: initialise and scale the residuals as "
    "DeepScaleLM does, or move the norms in front of the branches."
)


def advice_for(facts: StackFacts) -> Advice:
    """What helps a signal that is lost over depth in this kind of stack."""
    if facts.beta < 1 or facts.scheme == "DeepNorm":
        return _scaled_already(facts.scheme)
    if facts.placement is None:
        return NOT_DESCRIBED
    if facts.placement != "post":
        return PRE_LN
    return deepscale_advice(facts.n_layers) if facts.causal else MASKED


def _scaled_already(scheme: str) -> Advice:
    known = f" ({scheme})" if scheme else ""
    return Advice(
        f"This stack has scaled residuals already{known}, so its depth is not the cause by itself: "
        "lower the learning rate or lengthen the warm-up, and check that nothing resets the scales."
    )


def deepscale_advice(n_layers: int) -> Advice:
    r"""DeepScaleLM for this depth: :math:`\beta^2 = 1/N`, :math:`\lambda^2 = 1 - \beta^2`."""
    scaling = deepscale_scaling(n_layers)
    return Advice(
        text=(
            "Restart with DeepScaleLM, which holds the variance of stream and gradient at one "
            f"over depth: initialise with its weights and scale every residual of the {n_layers} "
            f"blocks as {scaling.lam:.4f}·x + {scaling.beta:.4f}·f(x). "
            "Byte-level Post-LN decoders of 24 layers ended 0.7 nats lower with it after 300 steps "
            "at rates of 0.0003 and 0.001; at 0.003 they needed a lower rate, too."
        ),
        scaling=scaling,
    )


def deepscale_scaling(n_layers: int) -> ScalingAdvice:
    """The residual scales of DeepScaleLM at this depth, and the call that applies them."""
    lam, beta = dslm.residual_amplitudes(n_layers)
    return ScalingAdvice(lam=lam, beta=beta, n_layers=n_layers, snippet=SNIPPET)
