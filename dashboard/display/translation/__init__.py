"""Translates plain Python functions to JavaScript.

Plain are functions over numbers, strings and lists, made of assignments, ``if``, ``for``, and calls
of each other or of what `expressions` lists. Anything else raises `Untranslatable`.
"""

from dashboard.display.translation.expressions import Untranslatable
from dashboard.display.translation.modules import translate

__all__ = ["Untranslatable", "translate"]
