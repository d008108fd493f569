"""Draw docs/theory.md's figures and print their errors: ``python -m benchmarks.theory_figures``.

Names choose some: mask, depth, collapse, softmax, activations, trained.
"""

from __future__ import annotations

import sys

from benchmarks.theory_figures.models import (
    collapse_figure,
    depth_figure,
    mask_figure,
    trained_figure,
)
from benchmarks.theory_figures.parts import activation_figure, softmax_figure

FIGURES = {
    "mask": mask_figure,
    "depth": depth_figure,
    "collapse": collapse_figure,
    "softmax": softmax_figure,
    "activations": activation_figure,
    "trained": trained_figure,
}


def main() -> None:
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
