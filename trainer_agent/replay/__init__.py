"""The former name of `trainer_agent.importing`, kept for scripts that call it."""

from trainer_agent.importing import Recording, ReplayError, read_recording, replay

__all__ = ["Recording", "ReplayError", "read_recording", "replay"]
