"""Namespaces are listed while other threads import into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer_agent.capture.attention.patch_points import ATTEMPTS, _entries


class Growing(dict[str, Any]):
    """A namespace that grows while it is listed, so often."""

    def __init__(self, times: int) -> None:
        super().__init__(a=1)
        self.left = times

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        for item in super().items():
            if self.left:
                self.left -= 1
                self[f"added {self.left}"] = 2
            yield item


def test_a_namespace_that_grows_meanwhile_is_listed_again() -> None:
    listed = dict(_entries(Growing(2)))

    assert listed == {"a": 1, "added 1": 2, "added 0": 2}


def test_one_that_never_stands_still_is_passed_by() -> None:
    assert _entries(Growing(ATTEMPTS + 1)) == []
