"""``python -m evenkeel`` and the ``evenkeel`` script."""

import sys


def main() -> None:
    """Run the command line; name a missing package in one line, with the command to install it."""
    try:
        from evenkeel.cli import app
    except ModuleNotFoundError as error:
        line = f"evenkeel: the command line needs {error.name}: pip install evenkeel"
        print(line, file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
