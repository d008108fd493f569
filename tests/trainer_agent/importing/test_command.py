"""The command that sends a recording, and what it answers for files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer_agent.importing.files import event_file, jsonl
from tests.trainer_agent.receiving_server import Store, refusal, serving
from trainer_agent.importing.__main__ import main

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"
FORMATS = (".csv", ".jsonl", ".json", ".parquet", ".wandb", ".tfevents", ".tsv")
BROKEN = {
    "absent.csv": None,
    "text.txt": "hello",
    "headless.csv": "a,b\r\n1,2\r\n",
    "words.csv": "step,time,/loss/value\r\n1,2,high\r\n",
    "empty.csv": "step,time,/loss/value\r\n",
    "negative.csv": "step,time,/loss/value\r\n-1,2,3\r\n",
    "broken.parquet": "no parquet",
    "broken.tfevents": "no events at all, far from it",
    "binary.csv": "\udcff",
    **{f"void{suffix}": "" for suffix in FORMATS},
    **{f"pointer{suffix}": LFS_POINTER for suffix in FORMATS},
    **{f"compressed{suffix}": "\x1f\udc8b\x08" for suffix in FORMATS},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_imported_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if BROKEN[name] is not None:
        (tmp_path / name).write_bytes(str(BROKEN[name]).encode(errors="surrogateescape"))

    assert main([str(tmp_path / name)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evenkeel: ") and str(tmp_path) in line


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (LFS_POINTER, "is a git LFS pointer and not the file itself; run 'git lfs pull'"),
        ("", "is empty; copy it again"),
        ("\x1f\udc8b\x08", "is compressed; run 'gunzip'"),
    ],
)
def test_a_pointer_an_empty_and_a_compressed_file_are_told_apart(
    content: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_bytes(content.encode(errors="surrogateescape"))

    main([str(tmp_path / "log.jsonl")])

    assert answer in capsys.readouterr().err


@pytest.mark.parametrize("suffix", FORMATS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_content_of_a_file_ends_in_a_traceback(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / f"log{suffix}").write_bytes(content)

    assert main([str(tmp_path / f"log{suffix}"), "--dry-run"]) in (0, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(entries=st.lists(st.dictionaries(st.sampled_from(["step", "time", "loss", "a"]), JSON)))
def test_no_entries_of_a_log_end_in_a_traceback(entries: list[object], tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(json.dumps(entries))

    assert main([str(tmp_path / "log.json"), "--dry-run"]) in (0, 2)


def test_a_folder_that_holds_no_run_names_its_folders_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event_file(tmp_path / "train", {"loss": {0: 1.0}})
    (tmp_path / "notes").mkdir()

    assert main([str(tmp_path)]) == 2
    assert "import one of its folders: train\n" in capsys.readouterr().err


def test_a_folder_that_holds_two_runs_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event_file(tmp_path, {"loss": {0: 1.0}})
    (tmp_path / "trainer_state.json").write_text("{}")

    assert main([str(tmp_path)]) == 2
    assert "trainer_state.json; name the file to import" in capsys.readouterr().err


def test_a_dry_run_lists_series_and_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "log.jsonl", [{"step": 3, "loss": 1.0, "v": [1, 2]}])

    assert main([str(path), "--server", "http://127.0.0.1:9", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 steps, 3 to 3",
        "/loss/value (1)",
        "/v/value (2)",
    ]


def test_the_command_sends_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = event_file(tmp_path, {"loss": {step: step / 10 for step in range(1200)}})
    store = Store()
    with serving(store) as url:
        code = main([str(path), "--server", url, "--run", "old", "--key", "k"])

    (run_id,) = store.layouts
    assert code == 0 and f"{url}/runs/{run_id}" in capsys.readouterr().out
    assert store.seqs(run_id) == list(range(1, 1201))
    assert store.ends[run_id].status == "finished"
    declared = store.declarations[0]
    assert (declared.project, declared.name, declared.started_at) == ("replay", "old", 1000.0)
    assert set(store.keys) == {"Bearer k"}


def test_an_interrupted_import_goes_on_under_the_same_id(tmp_path: Path) -> None:
    path = event_file(tmp_path, {"loss": {step: step for step in range(10)}})
    store, run_id = Store(), "a" * 32
    with serving(store) as url:
        command = [str(path), "--server", url, "--run-id", run_id]
        main(command)
        for seq in range(6, 11):
            del store.frames[run_id, 0][seq]
        store.durable[run_id, 0] = 5
        store.order.clear()
        main(command)

    assert store.order == [6, 7, 8, 9, 10]


def test_a_server_that_refuses_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = event_file(tmp_path, {"loss": {0: 1.0}})
    store = Store(faults={"declare": [refusal(401, "key", "the key is unknown")]})
    with serving(store) as url:
        assert main([str(path), "--server", url]) == 2

    assert "the key is unknown" in capsys.readouterr().err


def test_a_server_that_is_no_address_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = event_file(tmp_path, {"loss": {0: 1.0}})

    assert main([str(path), "--server", "somewhere"]) == 2
    assert "server: 'somewhere' is no server" in capsys.readouterr().err


def test_importing_needs_neither_torch_nor_the_programs_that_wrote_the_files() -> None:
    code = "import trainer_agent.importing.__main__, sys; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"torch", "tensorboard", "pyarrow", "wandb", "transformers"} & set(loaded)


def test_the_former_name_of_the_command_is_the_same_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "trainer_agent.replay", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "usage: python -m trainer_agent.importing" in answer
