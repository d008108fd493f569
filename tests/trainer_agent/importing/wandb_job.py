"""A program that logs to W&B offline: python wandb_job.py FOLDER STEPS"""

from __future__ import annotations

import sys

import wandb

if __name__ == "__main__":
    folder, n_steps = sys.argv[1], int(sys.argv[2])
    with wandb.init(
        project="wide",
        name="post-ln",
        mode="offline",
        dir=folder,
        config={"lr": 0.001, "model": {"layers": 2}},
        settings=wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True),
    ) as run:
        for step in range(n_steps):
            run.log(
                {
                    "train/loss": float("nan") if step == 7 else 4.0 - step / n_steps,
                    "train/global_step": 10 * step,
                    "lr": 1e-3,
                    "stream": {"variance": step},
                    "depth": [1.0, step],
                    "note": "x" * 1500 * step,  # so that records cross blocks of 32 KiB
                    "weights": wandb.Histogram([1, 2, 3]),
                }
            )
        run.log({"eval/loss": 3.0, "train/global_step": 10 * n_steps})
