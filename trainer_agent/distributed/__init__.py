"""Several processes of one job, measured as one."""

from trainer_agent.distributed.agreement import Hearing
from trainer_agent.distributed.background import Follower
from trainer_agent.distributed.payload import Agreement, Outline, Share
from trainer_agent.distributed.pipeline import Stages
from trainer_agent.distributed.reducer import Ranks, all_able, join, several, whole

__all__ = [
    "Agreement",
    "Follower",
    "Hearing",
    "Outline",
    "Ranks",
    "Share",
    "Stages",
    "all_able",
    "join",
    "several",
    "whole",
]
