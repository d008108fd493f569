"""Templates put values into text, and run nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidField
from server.outbox.message import Message
from server.outbox.templates import EXAMPLES, NAMES, check, fill, render
from tests.server.outbox.samples import message


@pytest.mark.parametrize(
    "template",
    ["{run.__class__}", "{0}", "{run!r}", "{run:>99999999}", "{Run}", "{unknown}", "{", "a } b",
     "{{run}", "{{{run}}}}", "{}"],
)  # fmt: skip
def test_template_that_names_what_there_is_not_is_refused_by_its_field(template: str):
    with pytest.raises(InvalidField) as refusal:
        check(template, "text_template")

    assert refusal.value.field == "text_template"
    assert "{severity}" in refusal.value.fix


def test_names_are_replaced_and_doubled_braces_stand_for_one():
    template = "{{{run}}} is {severity}"
    check(template, "title_template")

    assert fill(template, {"run": "gpt", "severity": "critical"}) == "{gpt} is critical"


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30)))
def test_what_a_value_holds_is_not_looked_through_again(values: dict[str, str]):
    braced = {name: f"{{{text}}}{{run}}" for name, text in values.items()}

    filled = fill("|".join(f"{{{name}}}" for name in NAMES), braced)

    parts = "|".join(braced.get(name, "") for name in NAMES)
    assert filled.replace("\n", "") == parts.replace("\n", "").strip() or filled in parts


@given(st.text(alphabet="{}ab run", max_size=40))
def test_every_template_that_is_accepted_can_be_filled(template: str):
    try:
        check(template, "text_template")
    except InvalidField:
        return

    assert isinstance(fill(template, EXAMPLES), str)


def test_name_without_a_value_leaves_no_gap():
    assert fill("{message}\n\n{advice}\n\n{link}", {"message": "a", "link": "b"}) == "a\n\nb"


def test_channel_without_templates_leaves_a_message_as_it_is():
    told = message()

    assert render(told, title="", text="") == told


def test_message_of_a_test_reads_in_a_channels_words():
    told: Message = render(message(), title="[evenkeel] {title}", text="")

    assert told.title == "[evenkeel] post-ln: rank collapse 1"
    assert told.text == message().text
