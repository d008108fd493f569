"""Settings: channels, silences, deliveries, own rules; built by ``assets/js/settings.js``."""

from __future__ import annotations

from dash import dcc, html

from dashboard import ids
from dashboard.page_data import PageData


def layout() -> html.Div:
    """The page without its sections, which the script builds from the API and keeps current."""
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=PageData("settings").store()),
            html.Div(html.H1("Settings"), className="toolbar"),
            html.Div(id=ids.SETTINGS, className="settings"),
        ],
        className="page page-settings",
    )
