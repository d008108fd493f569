"""How parts of the server hand work to each other: in one process, or through Redis."""

from server.bus.embedded import EmbeddedBus
from server.bus.protocol import Bus, BusAway, BusFull, Message, Subscription
from server.bus.redis_streams import RedisBus
from server.settings import Settings

__all__ = [
    "Bus",
    "BusAway",
    "BusFull",
    "EmbeddedBus",
    "Message",
    "RedisBus",
    "Subscription",
    "open_bus",
]


def open_bus(settings: Settings) -> Bus:
    """The bus that the settings name; nothing is connected yet."""
    if settings.redis_url is None:
        return EmbeddedBus(capacity=settings.bus_entries)
    return RedisBus(settings.redis_url, capacity=settings.bus_entries)
