"""``python -m evenkeel`` and the ``evenkeel`` script."""

import os
import sys


def main() -> None:
    """Run the command line; name a missing package in one line, with the command to install it."""
    # predictions multiply many small matrices, for which threads cost more than they save; numpy
    # reads this when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from evenkeel.cli import app
    except ModuleNotFoundError as error:
        line = f"evenkeel: the command line needs {error.name}: pip install evenkeel"
        print(line, file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
