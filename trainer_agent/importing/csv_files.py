"""CSV files: evenkeel's own exports, and tables of any program."""

from __future__ import annotations

import csv
from pathlib import Path

from trainer_agent.importing.column_map import ColumnMap
from trainer_agent.importing.exports import is_export_header, recording_of_export
from trainer_agent.importing.file_checks import cut_off
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.tables import Row, Table, recording_of_table

DELIMITERS = ",;\t"

Cells = tuple[str, ...]


def read_csv(path: Path, columns: ColumnMap, *, partial: bool = False) -> Recording:
    """A CSV file; its delimiter is a comma, a semicolon or a tab.

    Args:
        path: the file, with names in its first line.
        columns: says which series its columns belong to; an export of evenkeel needs none.
        partial: whether a last line with too few cells is left out.

    Raises:
        RecordingError: if it is no table, is cut off, or holds no steps.
    """
    head, lines = _lines(path)
    # A program that is killed leaves its last line unfinished; elsewhere a short line is a fault.
    if lines and len(lines[-1][1]) < len(head):
        if not partial:
            raise cut_off(path, f"in line {lines[-1][0]}")
        lines.pop()
    for number, cells in lines:
        if len(cells) != len(head):
            raise RecordingError(
                f"{path}, line {number} has {len(cells)} cells where the first line has "
                f"{len(head)}; mend that line"
            )
    if is_export_header(head):
        return recording_of_export(path, head, lines)
    rows: list[tuple[int, Row]] = [
        (number, dict(zip(head, cells, strict=True))) for number, cells in lines
    ]
    return recording_of_table(Table(path, rows), columns)


def _lines(path: Path) -> tuple[Cells, list[tuple[int, Cells]]]:
    """The cells of the first line, and those of the others with their numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            # Not by csv.Sniffer, which takes a letter for the delimiter of a single column.
            delimiter = max(DELIMITERS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, tuple(cells)) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not lines:
        raise RecordingError(f"{path} has no names; give its columns names in the first line")
    (_, head), *others = lines
    repeated = {name for name in head if head.count(name) > 1}
    if repeated:
        raise RecordingError(f"{path} has two columns {min(repeated)!r}; rename one of them")
    return head, others
