"""Several processes of one job, measured as one."""

from trainer_agent.ranks.follower import Follower
from trainer_agent.ranks.group import Ranks, all_able, join, several, whole
from trainer_agent.ranks.hearing import Hearing
from trainer_agent.ranks.shares import Agreement, Outline, Share
from trainer_agent.ranks.stages import Stages

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
