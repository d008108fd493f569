"""Writes ``assets/js/display.js``: what scripts share with Python."""

from __future__ import annotations

import json
from pathlib import Path

from dashboard import theme
from dashboard.display import axes, numbers, reasons
from dashboard.display.quantities import QUANTITIES
from dashboard.display.translation import translate

PATH = Path(__file__).parents[1] / "assets" / "js" / "display.js"
HEADER = """\
/* Written by `python -m dashboard.display` from the Python modules there; edit those. */

/** @import { Revision, Quantities, Values } from "./types" */
"""


def script() -> str:
    """The text of the script."""
    quantities = {
        quantity.name: {
            "series": quantity.series,
            "site": quantity.site,
            "moment": quantity.moment,
            "log": quantity.log,
            "relative": quantity.relative,
        }
        for quantity in QUANTITIES
    }
    parts = [
        HEADER,
        "/** @type {Quantities} */",
        f"export const QUANTITIES = {json.dumps(quantities, indent=2)};",
        f'export const ALARM_COLOUR = "{theme.ALARM}";',
        f'export const WARNING_COLOUR = "{theme.WARNING}";',
        *(translate(module) for module in (numbers, axes, reasons)),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PATH.write_text(script(), encoding="utf-8")
