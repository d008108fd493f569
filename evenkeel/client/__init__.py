"""A server's runs as Python objects: ``evenkeel.Client().run("gpt").scalars()``."""

from evenkeel.client.client import Client
from evenkeel.client.errors import ClientError
from evenkeel.client.run import Profile, Run, Series
from evenkeel.client.verdict import Verdict

__all__ = ["Client", "ClientError", "Profile", "Run", "Series", "Verdict"]
