"""The spool keeps what it is given, within its bound, in order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.spool import Spool
from wire import Frame


def frame(seq: int, n: int = 4) -> Frame:
    values = np.full(n, seq, dtype=np.float32)
    return Frame.pack(seq=seq, step=seq, time=0.0, layout="l", values=values)


def seqs(spool: Spool) -> list[int]:
    return [stored.seq for stored in spool.read(after=0, max_frames=1000, max_bytes=1 << 30)]


def test_frames_survive_closing_and_opening(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)
    finite = frame(1, n=3)
    not_finite = Frame.pack(
        seq=2, step=2, time=0.5, layout="l", values=np.array([np.nan, np.inf], dtype=np.float32)
    )
    spool.append(finite)
    spool.append(not_finite)
    spool.close()

    again = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)

    assert again.read(after=0, max_frames=9, max_bytes=1 << 20) == [finite, not_finite]
    assert again.last_seq == 2
    again.close()


def test_what_is_durable_leaves_the_file_with_the_next_write(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)
    spool.append(frame(1), frame(2), frame(3))
    spool.drop_to(2)
    assert (seqs(spool), spool.oldest) == ([3], 3)

    spool.append(frame(4))

    reopened = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)  # as after kill -9
    assert seqs(reopened) == [3, 4]
    assert reopened.size_bytes == spool.size_bytes
    spool.close()
    reopened.close()


def test_a_full_spool_drops_the_oldest_and_says_how_many(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.spool", limit_bytes=2000)

    dropped = sum(spool.append(frame(seq, n=100)) for seq in range(1, 11))

    assert seqs(spool) == [7, 8, 9, 10]
    assert dropped == 6
    assert spool.size_bytes <= 2000
    spool.close()


def test_reading_stops_at_a_bound_but_gives_at_least_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)
    for seq in range(1, 6):
        spool.append(frame(seq, n=100))

    assert len(spool.read(after=0, max_frames=2, max_bytes=1 << 20)) == 2
    assert [stored.seq for stored in spool.read(after=2, max_frames=9, max_bytes=1)] == [3]
    spool.close()


def test_deleting_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.spool", limit_bytes=1 << 20)
    spool.append(frame(1))

    spool.delete()

    assert list(tmp_path.iterdir()) == []


class SpoolAgainstDict(RuleBasedStateMachine):
    """Any order of appending and dropping leaves what a dict would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.spool = Spool(Path(":memory:"), limit_bytes=3000)
        self.expected: dict[int, int] = {}
        self.next = 1

    @rule(n=st.integers(0, 200))
    def append(self, n: int) -> None:
        dropped = self.spool.append(frame(self.next, n))
        self.expected[self.next] = n
        for seq in sorted(self.expected)[:dropped]:
            del self.expected[seq]
        self.next += 1

    @rule(back=st.integers(0, 6))
    def drop_to(self, back: int) -> None:
        watermark = self.next - 1 - back
        self.spool.drop_to(watermark)
        self.expected = {seq: n for seq, n in self.expected.items() if seq > watermark}

    @rule(back=st.integers(1, 6))
    def drop(self, back: int) -> None:
        self.spool.drop(self.next - back)
        self.expected.pop(self.next - back, None)

    @invariant()
    def holds_what_a_dict_holds(self) -> None:
        assert seqs(self.spool) == sorted(self.expected)
        assert self.spool.oldest == min(self.expected, default=0)
        assert self.spool.size_bytes <= 3000

    def teardown(self) -> None:
        self.spool.close()


TestSpoolAgainstDict = SpoolAgainstDict.TestCase
TestSpoolAgainstDict.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=9), max_size=6))
def test_notes_are_found_by_prefix_in_the_order_of_their_names(notes: dict[str, bytes]) -> None:
    spool = Spool(Path(":memory:"), limit_bytes=1 << 20)
    for name, body in notes.items():
        spool.put_message(f"kind:{name}", body)
    spool.put_message("other", b"")

    assert list(spool.messages("kind:").values()) == [
        notes[n] for n in sorted(notes, key=str.encode)
    ]
    spool.close()


def test_orphans_of_any_server_are_bounded_and_the_newest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        spool = Spool(tmp_path / f"{name}.spool", limit_bytes=1 << 20)
        messages.put_origin(
            spool, server="http://here" if age else "http://there", run_id="r", rank=0
        )
        spool.close()
        os.utime(spool.path, (1000 - age, 1000 - age))
    monkeypatch.setattr(spool_folder, "ORPHANS_LIMIT_BYTES", 2 * spool.path.stat().st_size)

    adopted = list(spool_folder.adopt_orphans(tmp_path, server="http://here", limit_bytes=1 << 20))

    assert [spool.path.stem for spool in adopted] == ["middle"]
    for spool in adopted:
        spool_folder.release(spool)
    assert sorted(path.stem for path in tmp_path.glob("*.spool")) == ["middle", "new"]


def test_a_spool_that_is_in_use_is_no_orphan(tmp_path: Path) -> None:
    in_use = spool_folder.open_spool(
        tmp_path, server="http://here", run_id="r", rank=0, limit_bytes=1 << 20
    )

    adopted = list(spool_folder.adopt_orphans(tmp_path, server="http://here", limit_bytes=1))

    assert adopted == []
    spool_folder.remove(in_use)
    assert list(tmp_path.iterdir()) == []
