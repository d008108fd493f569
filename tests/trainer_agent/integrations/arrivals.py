"""What a receiving server has of a run."""

from __future__ import annotations

import numpy as np

from tests.trainer_agent.receiving_server import Store


def the_run(store: Store) -> str:
    """The one run there is."""
    (run_id,) = store.layouts
    return run_id


def series(store: Store, run_id: str, key: str) -> tuple[list[int], np.ndarray]:
    """Steps and values of a run, in the order of its frames."""
    layouts = {layout.hash: layout for layout in (d.layout for d in store.declarations)}
    frames = [store.frames[run_id, 0][seq] for seq in store.seqs(run_id)]
    values = [frame.unpack()[layouts[frame.layout].slices[key]] for frame in frames]
    return [frame.step for frame in frames], np.stack(values)
