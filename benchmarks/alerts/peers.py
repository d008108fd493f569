"""Other tools' published rules on a run's losses and gradient norms, as the server judges them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.alerts.user_rules.presets import RULES, alarms_of

Floats = NDArray[np.float64]
Alarms = list[int]
QUIET = 20  # steps without an alarm after which the next one is a new one
#: The rules by the title that tables give them.
PEERS = {rule.title: rule.judge for rule in RULES.values()}


def peer_alarms(title: str, losses: Floats, norms: Floats) -> Alarms:
    """The steps at which a peer's rule alarms anew."""
    return episodes(alarms_of(PEERS[title], losses.tolist(), norms.tolist()))


def episodes(alarms: Alarms) -> Alarms:
    """The alarms that begin something: the first, and those after a quiet while."""
    return [at for n, at in enumerate(alarms) if n == 0 or at - alarms[n - 1] > QUIET]
