"""Settings that cannot be read end a start with one line that names the setting."""

from __future__ import annotations

import pytest

from evenkeel.options import settings_from
from server.errors import StartError


def test_rules_of_other_tools_are_named_in_a_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVENKEEL_PEER_RULES", '["zclip", "olmo_six_sigma"]')

    assert settings_from().peer_rules == ("zclip", "olmo_six_sigma")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('["nobody"]', "setting peer_rules.0: Input should be 'wandb_z_score'"),
        ("zclip", "setting peer_rules: EVENKEEL_PEER_RULES is a list in JSON, such as"),
    ],
)
def test_a_setting_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, value: str, says: str):
    monkeypatch.setenv("EVENKEEL_PEER_RULES", value)

    with pytest.raises(StartError, match=says.replace(".", r"\.")):
        settings_from()
