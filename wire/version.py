"""The wire contract's version: raised when an older reader would misread a newer writer."""

WIRE_VERSION = 1
