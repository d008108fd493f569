"""`python -m trainer_agent.check` on scripts, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

Checked = tuple[Path, subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[3]
MODEL = """\
import argparse
import torch
from examples.byte_gpt import ByteGPT, Sizes, loss_of

def model():
    return ByteGPT(Sizes(layers=3, width=16, heads=2, context=8), "pre")

def batch():
    return torch.randint(256, (2, 9))
"""
PLAIN = (
    MODEL
    + """
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int)
    steps = parser.parse_args().steps
    net = model().to("cuda:0")
    net = torch.compile(net)
    optim = torch.optim.AdamW(net.parameters())
    for step in range(steps):
        ids = batch().cuda()
        print("step", step)
        loss = loss_of(net(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        optim.step()
    print("end of the script")
"""
)
TRAINER = """\
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

def main():
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=8)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 20
    args = TrainingArguments("out", max_steps=9, save_strategy="no", report_to=[],
                             gradient_accumulation_steps=2, per_device_train_batch_size=2)
    Trainer(GPT2LMHeadModel(config), args, train_dataset=data).train()

main()
"""
LIGHTNING = (
    MODEL
    + """
from lightning.pytorch import LightningModule, Trainer

class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = model()

    def training_step(self, ids, _):
        return loss_of(self.net(ids[:, :-1]), ids[:, 1:])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())

data = torch.utils.data.DataLoader([torch.randint(256, (9,)) for _ in range(16)], batch_size=2)
Trainer(max_steps=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        accelerator="cpu").fit(Lit(), data)
"""
)
TWO_OPTIMIZERS = (
    MODEL
    + """
net, critic = model(), torch.nn.Linear(4, 1)
optimizers = [torch.optim.SGD(net.blocks.parameters(), lr=0.1)]
optimizers.append(torch.optim.Adam([p for n, p in net.named_parameters() if "blocks" not in n]))
optimizers.append(torch.optim.Adam(critic.parameters()))
while True:
    ids = batch()
    (loss_of(net(ids[:, :-1]), ids[:, 1:]) + critic(torch.ones(4)).sum()).backward()
    for optimizer in optimizers:
        optimizer.step()
"""
)
OWN_WATCH = (
    MODEL
    + """
import trainer_agent
net = model()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
with trainer_agent.watch(net, project="p", run="r", optimizer=optimizer) as agent:
    while True:
        ids = batch()
        loss = loss_of(net(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        optimizer.step()
        agent.step(loss=loss)
"""
)
NOT_A_TRANSFORMER = """\
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
while True:
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
"""
FAILING = {
    "no optimizer": ("print('done')", "no torch optimizer made a step"),
    "no transformer": (NOT_A_TRANSFORMER, "no transformer was found in Sequential"),
    "an error": (
        "def load():\n    raise RuntimeError('no data')\nload()",
        "raised before an optimizer made a step",
    ),
    "an exit": ("import sys; sys.exit(0)", "ended before an optimizer made a step"),
}


def check(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a program, in `folder`."""
    (folder / "job.py").write_text(program, encoding="utf-8")
    (folder / "home").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "home"),
        "TMPDIR": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "trainer_agent.check", *(arguments or ("job.py",))]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def row(output: str, site: str) -> list[str]:
    """The cells of a site's row."""
    return next(line.split() for line in output.splitlines() if line.split()[:1] == [site])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """The folder and the result of a check of a plain loop that would go on."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, check(folder, PLAIN, "job.py", "--steps", "5")


def test_a_plain_loop_is_stopped_after_two_steps_and_its_table_printed(plain: Checked) -> None:
    _, result = plain

    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("step")] == [
        "step 0",
        "step 1",
    ]
    assert "end of the script" not in result.stdout
    assert "decoder: 3 layers of width 16" in result.stdout
    sites = ("stream", "stream_gradient", "attention", "feed_forward", "attention_logits")
    assert [row(result.stdout, site)[1:3] for site in sites] == [["yes", "yes"]] * len(sites)
    assert row(result.stdout, "gradient_norm")[1] == "yes"
    assert "not measured" not in result.stdout


def test_the_lines_to_add_are_in_the_names_of_the_script(plain: Checked) -> None:
    _, result = plain

    line = PLAIN.splitlines().index("        optim.step()") + 1
    watch = 'agent = trainer_agent.watch(net, project="job", run="first", optimizer=optim)'
    assert watch in result.stdout
    assert f"(line {line} of job.py)" in result.stdout
    assert "agent.step(loss=loss)" in result.stdout
    assert "The script compiles" in result.stdout


def test_a_check_leaves_no_files(plain: Checked) -> None:
    folder, _ = plain

    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {"job.py"}


def test_a_script_that_ends_by_itself_is_shown_as_well(tmp_path: Path) -> None:
    result = check(tmp_path, PLAIN, "job.py", "--steps", "2")

    assert result.returncode == 0, result.stderr
    assert row(result.stdout, "stream")[1] == "yes"


def test_a_module_is_run_by_its_name(tmp_path: Path) -> None:
    result = check(tmp_path, PLAIN, "-m", "job", "--steps", "5")

    assert result.returncode == 0, result.stderr
    assert "evenkeel: -m job, 2 optimizer steps" in result.stdout


def test_the_trainer_of_transformers_is_advised_its_callback(tmp_path: Path) -> None:
    result = check(tmp_path, TRAINER)

    assert result.returncode == 0, result.stderr
    assert "GPT2LMHeadModel" in result.stdout
    assert "decoder: 2 layers of width 16" in result.stdout
    assert "trainer_agent.integrations.transformers import EvenkeelCallback" in result.stdout


def test_a_lightning_module_is_looked_into(tmp_path: Path) -> None:
    result = check(tmp_path, LIGHTNING)

    assert result.returncode == 0, result.stderr
    assert "ByteGPT" in result.stdout
    assert row(result.stdout, "stream_gradient")[1:3] == ["yes", "yes"]
    assert "trainer_agent.integrations.lightning import EvenkeelCallback" in result.stdout


def test_several_optimizers_step_twice_each(tmp_path: Path) -> None:
    result = check(tmp_path, TWO_OPTIMIZERS)

    assert result.returncode == 0, result.stderr
    assert row(result.stdout, "stream")[1:3] == ["yes", "yes"]
    assert "no optimizer" not in result.stdout
    assert "no transformer: Linear" in result.stdout


def test_a_script_that_watches_already_sends_nothing(tmp_path: Path) -> None:
    result = check(tmp_path, OWN_WATCH)

    assert result.returncode == 0, result.stderr
    assert row(result.stdout, "attention")[1:3] == ["yes", "yes"]
    assert "to watch it" not in result.stdout
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"job.py"}


@pytest.mark.parametrize("kind", FAILING)
def test_where_there_is_nothing_to_show_a_sentence_says_why(kind: str, tmp_path: Path) -> None:
    program, sentence = FAILING[kind]

    result = check(tmp_path, program)

    assert result.returncode == 2
    assert sentence in result.stderr.splitlines()[-1]


def test_an_error_of_the_script_is_shown_without_our_frames(tmp_path: Path) -> None:
    result = check(tmp_path, FAILING["an error"][0])

    assert "RuntimeError: no data" in result.stderr
    assert 'job.py", line 2, in load' in result.stderr
    assert "runpy" not in result.stderr
    assert "trainer_agent" not in result.stderr.replace("evenkeel:", "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = check(tmp_path, "", "other.py")

    assert (result.returncode, result.stderr) == (2, "evenkeel: other.py: there is no such file\n")
