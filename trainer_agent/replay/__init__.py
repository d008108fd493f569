"""``python -m trainer_agent.replay FILE``: a finished recording as a run, over the same wire.

Reads TensorBoard event files and evenkeel's own Parquet and CSV exports.
"""

from trainer_agent.replay.reading import read_recording
from trainer_agent.replay.recording import Recording, ReplayError
from trainer_agent.replay.sending import replay

__all__ = ["Recording", "ReplayError", "read_recording", "replay"]
