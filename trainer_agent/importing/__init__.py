"""``python -m trainer_agent.importing FILE``: a finished recording as a run, over the same wire.

Reads TensorBoard event files, the ``trainer_state.json`` of transformers, W&B's offline runs, CSV
and JSONL logs of any program, and evenkeel's own Parquet and CSV exports.
"""

from trainer_agent.importing.formats import read_recording
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.sending import send_recording

__all__ = ["Recording", "RecordingError", "read_recording", "send_recording"]
