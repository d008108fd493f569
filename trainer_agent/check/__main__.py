"""The command ``python -m trainer_agent.check``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer_agent.check.script import Script

EPILOG = """\
The script runs unchanged in this process until its optimizers have made two steps, on the CPU and
with nothing compiled; what follows its training loop does not run. Give it arguments that make its
model and batch small enough. No server is needed, and nothing is sent.

examples:
  python -m trainer_agent.check train.py --batch-size 2
  python -m trainer_agent.check -m mypackage.train config.yaml

exit code: 0; 2 where no optimizer made a step, no transformer was found, or the script raised first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one script; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.script:
        parser.error("name the script")
    from trainer_agent.check.script import Script

    name, *script_arguments = options.script
    script = Script(name, script_arguments, is_module=options.is_module)
    if not script.is_module and not Path(name).is_file():
        print(f"evenkeel: {name}: there is no such file", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="evenkeel-check-") as folder:
        return _check(script, Path(folder))


def _check(script: Script, folder: Path) -> int:
    # Before torch is loaded, which reads most of these then.
    os.environ.update(
        {
            "CUDA_VISIBLE_DEVICES": "",
            "TORCHDYNAMO_DISABLE": "1",
            "PYTORCH_JIT": "0",
            "WANDB_MODE": "disabled",
            "EVENKEEL_SPOOL_DIR": str(folder),
        }
    )
    from trainer_agent.check.cpu_only import noted_compilation, on_cpu
    from trainer_agent.check.delivery import CheckedAgents
    from trainer_agent.check.report import report
    from trainer_agent.check.steps import StepWatcher

    agents = CheckedAgents(folder)
    watcher = StepWatcher(agents)
    with on_cpu(), noted_compilation() as compiled, agents.in_place(), watcher.on():
        error = script.run()
    agents.close()
    return report(script, watcher, agents.watched, error, compiles=bool(compiled))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_agent.check",
        description="Show what the agent would measure and predict of a training script.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="SCRIPT is a module")
    parser.add_argument(
        "script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGUMENTS…]", help="as after `python`"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
