"""The former name of `trainer_agent.importing`, kept for scripts that call it."""

from trainer_agent.importing import Recording, read_recording
from trainer_agent.importing import RecordingError as ReplayError
from trainer_agent.importing import send_recording as replay

__all__ = ["Recording", "ReplayError", "read_recording", "replay"]
