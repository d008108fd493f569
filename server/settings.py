"""The settings of a server process, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import StartError

PREFIX = "EVENKEEL_"
# Read by the agent and the command line, which share the server's environment.
OF_OTHERS = frozenset(
    {"URL", "KEY", "RUN_ID", "SPOOL_DIR", "TAKE_OVER", "CA_FILE", "PUBLISHED_PORT"}
)
LogFormat = Literal["console", "json"]
PeerRule = Literal["wandb_z_score", "olmo_six_sigma", "zclip", "kill_loss_spike"]


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return False


def require_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raise `StartError` for a variable with our prefix that no part of evenkeel reads.

    A mistyped ``EVENKEEL_REQUIRE_KEYS`` would otherwise serve without keys, in silence.
    """
    for name in sorted(names):
        setting = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and setting not in known:
            nearest = get_close_matches(setting, known, n=1, cutoff=0.0)
            raise StartError(
                f"{name}: there is no such setting; did you mean {PREFIX}{nearest[0]}? "
                "Correct it, or take it out of the environment"
            )


class Settings(BaseSettings):
    """Settings of one process; environment variables carry the prefix ``EVENKEEL_``.

    Attributes:
        host: address to bind.
        port: TCP port to bind; 0 takes a free one.
        data_dir: folder of the embedded database and of the cookie secret.
        database_url: SQLAlchemy URL; None is SQLite in `data_dir`.
        redis_url: Redis for the bus; None is the in-process bus.
        require_keys: whether every request needs a key or a login; None is False when `host`
            is loopback and True otherwise.
        webhooks: URLs that receive alerts: http(s) ones, or apprise's.
        webhook_secrets: sign webhooks; each the base64 of 24 bytes or more.
        delivery_give_up_s: how long an alert is tried at a target before it is given up.
        public_url: where people reach the pages, e.g. ``"https://evenkeel.example.org"``: messages
            link to runs below it.
        secret: signs login cookies; None stores a random one in `data_dir`.
        lost_contact_s: silence after which a running run's status becomes `lost_contact`.
        max_body_bytes: largest request body.
        segment_frames: frames in one compressed segment of old frames.
        burst_steps: steps sampled one after the other when a critical alert opens; 0 for none.
        peer_rules: published rules of other tools that judge every run beside evenkeel's own.
        bus_entries: batches that may wait for the writer before the server answers 503.
        start_timeout: seconds that a start waits for a database which does not answer yet.
        disk_floor_bytes: free space under which frames are refused, where the database is a file
            of this server.
        log_format: ``"console"`` for people, ``"json"`` for one object a line.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    data_dir: Path = Field(default_factory=lambda: Path.home() / ".evenkeel")
    database_url: str | None = None
    redis_url: str | None = None
    require_keys: bool | None = None
    webhooks: tuple[str, ...] = ()
    webhook_secrets: tuple[SecretStr, ...] = ()
    delivery_give_up_s: float = Field(default=86_400.0, gt=0)
    public_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    secret: SecretStr | None = None
    lost_contact_s: float = Field(default=60.0, gt=0)
    max_body_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    segment_frames: int = Field(default=256, ge=2)
    burst_steps: int = Field(default=32, ge=0, le=256)
    peer_rules: tuple[PeerRule, ...] = ()
    bus_entries: int = Field(default=1024, ge=1)
    start_timeout: float = Field(default=60.0, ge=0)
    disk_floor_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    log_format: LogFormat = "console"

    @model_validator(mode="before")
    @classmethod
    def _require_known(cls, values: Any) -> Any:
        known = {name.upper() for name in cls.model_fields} | OF_OTHERS
        require_known(os.environ, known)
        return values

    @property
    def embedded(self) -> bool:
        """Whether the database is the server's own SQLite file, migrated at start."""
        return self.database_url is None or self.database_url.startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database in use."""
        if self.database_url is not None:
            return self.database_url
        return f"sqlite+aiosqlite:///{self.data_dir / 'evenkeel.db'}"

    @property
    def keys_required(self) -> bool:
        """Whether requests need a key or a login."""
        return not is_loopback(self.host) if self.require_keys is None else self.require_keys
