"""The processes of a job, measured as one run."""

from trainer_agent.distributed.background import ReduceOnlySender
from trainer_agent.distributed.multi_process import MultiProcess, join
from trainer_agent.distributed.payload import SampleHeader
from trainer_agent.distributed.processes import Processes, StepOutcome
from trainer_agent.distributed.single_process import SingleProcess

__all__ = [
    "MultiProcess",
    "Processes",
    "ReduceOnlySender",
    "SampleHeader",
    "SingleProcess",
    "StepOutcome",
    "join",
]
