"""What looks for work cost beside runs that have ended: Postgres, generated rows, EXPLAIN ANALYZE.

    python -m benchmarks.idle_runs [--runs 1000000]

All but a hundred of the runs are judged and packed; their frames are not there, since no look for
work reads them.
"""

from __future__ import annotations

import argparse
import asyncio
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Select, text
from sqlalchemy.dialects import postgresql

from server.clock import system_clock
from server.database import connect
from server.diagnosis.judges import Judges
from server.diagnosis.repository import behind_query
from server.settings import Settings
from server.storage.compaction import tasks_query
from tests.services.postgres import Postgres

BEHIND = 100
RUNS = """
INSERT INTO runs (id, project, name, tags, tag_index, config, status, ended, end_reason, diverged,
  diverging, created_at, started_at, last_seen, sparkline, frames, layout_hash, agent_version,
  family, architecture, n_params, stacks, missing, notes)
SELECT lpad(to_hex(n), 32, '0'), 'project ' || n % 50, 'run ' || md5(n::text), '[]', '', '{}',
  'finished', 'finished', '', false, false, n, n, n, '{}', 0, '', '', '', '', 0, '{}', '[]', '[]'
FROM generate_series(1, :runs) n
"""
MARKS = """
INSERT INTO marks (run_id, rank, durable, oldest, diagnosed, packed, top_seq, health, last_seen)
SELECT lpad(to_hex(n), 32, '0'), 0, 1000, 1, CASE WHEN n > :idle THEN 900 ELSE 1000 END,
  CASE WHEN n > :idle THEN 0 ELSE 1000 END, 1000, '{}', n
FROM generate_series(1, :runs) n
"""


async def _measure(runs: int) -> None:
    postgres = Postgres()
    try:
        database = connect(await postgres.fresh(), command_timeout_s=None)
        try:
            async with database.engine.begin() as connection:
                await connection.execute(text(RUNS), {"runs": runs})
                await connection.execute(text(MARKS), {"runs": runs, "idle": runs - BEHIND})
            async with database.engine.connect() as connection:
                auto = await connection.execution_options(isolation_level="AUTOCOMMIT")
                await auto.execute(text("VACUUM ANALYZE runs"))
                await auto.execute(text("VACUUM ANALYZE marks"))
                state: Any = SimpleNamespace(settings=Settings(), clock=system_clock)
                free = Judges(database, system_clock).free()
                queries = {
                    "what is not judged": behind_query(free),
                    "what is not packed": tasks_query(state),
                }
                print(f"{runs} runs, {BEHIND} of them with work")
                for name, query in queries.items():
                    await _explain(auto, name, query)
        finally:
            await database.close()
    finally:
        postgres.close()


async def _explain(connection: Any, name: str, query: Select[Any]) -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    sql = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    statement = text(f"EXPLAIN (ANALYZE, COSTS OFF) {sql}".replace(":", r"\:"))
    for _ in range(2):  # the first one fills the caches
        plan = (await connection.execute(statement)).scalars().all()
    print(f"{name}: {plan[-1].strip()}")
    print("  " + "\n  ".join(line for line in plan if "Scan" in line))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    asyncio.run(_measure(parser.parse_args().runs))


if __name__ == "__main__":
    main()
