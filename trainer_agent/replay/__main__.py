"""``python -m trainer_agent.replay``: the former name of ``python -m trainer_agent.importing``."""

import sys

from trainer_agent.importing.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
