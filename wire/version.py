"""The wire contract's version: raised when an older reader would misread a newer writer.

A field that is only added does not raise it: readers pass over fields they do not know.
"""

WIRE_VERSION = 1
