"""``python -m trainer_agent.importing FILE``: a finished recording as a run, over the same wire.

Reads TensorBoard event files and evenkeel's own Parquet and CSV exports.
"""

from trainer_agent.importing.reading import read_recording
from trainer_agent.importing.recording import Recording, ReplayError
from trainer_agent.importing.sending import replay

__all__ = ["Recording", "ReplayError", "read_recording", "replay"]
