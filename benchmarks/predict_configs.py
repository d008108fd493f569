"""``evenkeel predict`` on every model type of transformers, with its default config.

Prints a line a type: seconds to describe and to diagnose it, and the answer. Ends with 1 where a
type ends in anything but an answer or a sentence, or takes longer than ten seconds.

    python -m benchmarks.predict_configs [MODEL_TYPE...]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import dslm
from evenkeel.prediction.reduced_model import describe_config
from server.errors import StartError

MOST_S = 10.0


def main(model_types: list[str]) -> int:
    """Try the model types; return how the command ends."""
    answers: dict[str, int] = {}
    for model_type in model_types or sorted(CONFIG_MAPPING):
        started = time.perf_counter()
        answer, detail = _answer(model_type)
        seconds = time.perf_counter() - started
        answer = "slow" if seconds > MOST_S and answer != "broken" else answer
        answers[answer] = answers.get(answer, 0) + 1
        print(f"{model_type:<32}{seconds:>6.1f} s  {answer:<9}{detail}", flush=True)
    print(", ".join(f"{count} {answer}" for answer, count in sorted(answers.items())))
    return int(bool({"broken", "slow"} & answers.keys()))


def _answer(model_type: str) -> tuple[str, str]:
    try:
        spec, notes = describe_config({"model_type": model_type}, None)
        curves = dslm.diagnose(spec).prediction.stacks.values()
    except StartError as error:
        return "refused", str(error)
    except Exception as error:  # what the benchmark looks for
        return "broken", f"{type(error).__name__}: {error}"
    if any(np.isnan(stack.forward.variance).any() for stack in curves):
        return "broken", "NaN in a curve"
    return "predicted", "; ".join(notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
