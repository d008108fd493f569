"""Typed rows are what the tables hold: a query's columns become fields by their order."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from sqlalchemy import JSON, Table

from server import tables
from server.access.rows import KeyRow
from server.alerts.rows import AlertColumns, AlertRow
from server.predictions.rows import PredictionRow, RevisionRow
from server.runs.rows import RankRow, RunRow
from server.storage.rows import FrameRow, SegmentRow

ROWS = {
    RunRow: tables.runs,
    RankRow: tables.marks,
    FrameRow: tables.frames,
    SegmentRow: tables.blocks,
    RevisionRow: tables.revisions,
    PredictionRow: tables.predictions,
    AlertColumns: tables.alerts,
    KeyRow: tables.keys,
}


EACH_ROW = pytest.mark.parametrize(
    ("row", "table"), [pytest.param(*case, id=case[0].__name__) for case in ROWS.items()]
)


@EACH_ROW
def test_fields_of_a_row_are_the_columns_of_its_table(row: type[msgspec.Struct], table: Table):
    assert row.__struct_fields__ == tuple(table.columns.keys())


@EACH_ROW
def test_field_may_be_none_where_its_column_may_be_null(row: type[msgspec.Struct], table: Table):
    optional = {name for name, hint in get_type_hints(row).items() if NoneType in get_args(hint)}

    assert optional == {column.name for column in table.columns if column.nullable}


@EACH_ROW
def test_field_has_the_type_of_its_column(row: type[msgspec.Struct], table: Table):
    hints = get_type_hints(row)

    for column in table.columns:
        if not isinstance(column.type, JSON):
            assert column.type.python_type in _types(hints[column.name]), column.name


def _types(hint: Any) -> set[Any]:
    """The types of the values that a hint allows."""
    if get_origin(hint) is Literal:
        return {type(value) for value in get_args(hint)}
    return set().union(*map(_types, get_args(hint))) if get_args(hint) else {hint}


def test_alert_with_its_run_has_three_columns_more():
    assert AlertRow.__struct_fields__ == (
        *AlertColumns.__struct_fields__,
        "run_name",
        "project",
        "tags",
    )
