"""Who is asking, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["ingest", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key or a login.

    Attributes:
        scopes: what they may do; ``admin`` includes the rest.
        project: the only project they may see, or None for every project.
    """

    scopes: frozenset[str]
    project: str | None = None

    def has(self, scope: Scope) -> bool:
        """Whether they hold the scope."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, project: str) -> bool:
        """Whether the project is theirs to touch."""
        return self.project is None or self.project == project


def holder_of(scopes: Iterable[str], project: str | None = None) -> Principal:
    """A principal with these scopes."""
    return Principal(scopes=frozenset(scopes), project=project)


# A caller who needs no key is on this machine, or has logged in as its owner.
EVERYONE = holder_of(["admin"])
