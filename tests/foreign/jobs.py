"""Training code of other projects, each two lines away from being watched."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

STEPS, BATCH, LENGTH = 6, 4, 12
WORDS = [f"w{number}" for number in range(30)]


@dataclass
class Watch:
    """How a job is watched: not at all, or by the server at this address."""

    url: str | None
    folder: Path
    streams: list[list[Tensor]] = field(default_factory=list)

    def agent(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """An agent for a loop of one's own, or one that does nothing."""
        if self.url is None:
            return _Nobody()
        import trainer_agent

        return trainer_agent.watch(
            model,
            project="foreign",
            run=self.folder.name,
            optimizer=optimizer,
            every=1,
            server=self.url,
            spool_dir=self.folder,
        )

    def callback(self, framework: str, **options: Any) -> list[Any]:
        """The framework's callback in a list, which is empty where nobody watches."""
        if self.url is None:
            return []
        if framework == "lightning":
            from trainer_agent.integrations.lightning import EvenkeelCallback
        else:
            from trainer_agent.integrations.transformers import EvenkeelCallback
        callback = EvenkeelCallback(
            project="foreign",
            run=self.folder.name,
            every=1,
            server=self.url,
            spool_dir=self.folder,
            **options,
        )
        return [callback]

    def follow(self, blocks: Iterator[nn.Module]) -> None:
        """Keep what each block puts out in training, by hooks of the test's own."""
        for block in blocks:
            outputs: list[Tensor] = []
            self.streams.append(outputs)
            block.register_forward_hook(_keep(outputs))


def _keep(outputs: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if module.training and torch.is_grad_enabled():
            outputs.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    return hook


class _Nobody:
    def step(self, **_: Any) -> None:
        """Nothing is watched."""

    def close(self) -> None:
        """Nothing is watched."""


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    vocabulary |= {word: number + 3 for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def sentences(count: int, length: int) -> list[str]:
    words = random.Random(1)
    return [" ".join(words.choice(WORDS) for _ in range(length)) for _ in range(count)]


def arguments(kind: type, watch: Watch, **more: Any) -> Any:
    return kind(
        output_dir=str(watch.folder / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        logging_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        **more,
    )


def saved(model: nn.Module, watch: Watch) -> str:
    """trl copies a reference model from where the trained one was loaded."""
    folder = watch.folder / "model"
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer().save_pretrained(folder)
    return str(folder)


def trained(trainer: Any, watch: Watch, blocks: str = "model.layers") -> dict[str, Tensor]:
    watch.follow(trainer.model.get_submodule(blocks).children())
    trainer.train()
    return trainer.model.state_dict()


def sft(watch: Watch, **more: Any) -> dict[str, Tensor]:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    seed()
    data = datasets.Dataset.from_list([{"text": text} for text in sentences(32, LENGTH)])
    trainer = trl.SFTTrainer(
        model=llama(),
        args=arguments(trl.SFTConfig, watch, max_length=LENGTH, bf16=False),
        train_dataset=data,
        processing_class=tokenizer(),
        callbacks=watch.callback("transformers"),
        **more,
    )
    return trained(trainer, watch, "base_model.model.model.layers" if more else "model.layers")


def sft_with_lora(watch: Watch) -> dict[str, Tensor]:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    return sft(watch, peft_config=lora)


def dpo(watch: Watch) -> dict[str, Tensor]:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM

    seed()
    path = saved(llama(), watch)
    texts = zip(sentences(32, 4), sentences(64, 5)[:32], sentences(64, 5)[32:], strict=True)
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts]
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path),
        args=arguments(trl.DPOConfig, watch, max_length=LENGTH, bf16=False),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=watch.callback("transformers"),
    )
    return trained(trainer, watch)


def grpo(watch: Watch) -> dict[str, Tensor]:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    seed()
    trainer = trl.GRPOTrainer(
        model=llama(),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=arguments(
            trl.GRPOConfig,
            watch,
            max_completion_length=6,
            num_generations=4,
            generation_kwargs={"min_new_tokens": 6},  # no padding, which the agent leaves out
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in sentences(32, 4)]),
        processing_class=tokenizer(),
        callbacks=watch.callback("transformers"),
    )
    return trained(trainer, watch)


def transformers_trainer(watch: Watch) -> dict[str, Tensor]:
    import transformers

    seed()
    ids = torch.randint(3, len(WORDS), (32, LENGTH), generator=torch.Generator().manual_seed(1))
    trainer = transformers.Trainer(
        llama(),
        arguments(transformers.TrainingArguments, watch),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        callbacks=watch.callback("transformers"),
    )
    return trained(trainer, watch)


def x_transformers(watch: Watch) -> dict[str, Tensor]:
    library = pytest.importorskip("x_transformers")
    seed()
    layers = library.Decoder(dim=32, depth=3, heads=4, attn_dim_head=8)
    wrapper = library.TransformerWrapper(num_tokens=33, max_seq_len=LENGTH, attn_layers=layers)
    return own_loop(watch, library.AutoregressiveWrapper(wrapper))


def torch_encoder(watch: Watch) -> dict[str, Tensor]:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(33, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.head = nn.Linear(32, 33)

        def forward(self, ids: Tensor) -> Tensor:
            logits = self.head(self.encoder(self.tokens(ids)))
            return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())

    seed()
    return own_loop(watch, Classifier(), "encoder.layers")


def litgpt(watch: Watch) -> dict[str, Tensor]:
    pytest.importorskip("litgpt")
    from litgpt import GPT, Config

    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = Config(
                block_size=LENGTH, vocab_size=33, padded_vocab_size=33, n_layer=3, n_head=4,
                n_embd=32, rotary_percentage=1.0,
            )  # fmt: skip
            self.gpt = GPT(config)

        def forward(self, ids: Tensor) -> Tensor:
            logits = self.gpt(ids[:, :-1])
            return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    seed()
    return own_loop(watch, Training(), "gpt.transformer.h")


def accelerate_loop(watch: Watch) -> dict[str, Tensor]:
    from accelerate import Accelerator

    seed()
    model = llama()
    watch.follow(model.model.layers)  # type: ignore[union-attr, arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    if watch.url is None:
        agent: Any = _Nobody()
    else:
        from trainer_agent.integrations.accelerate import watch as watch_loop

        options = {"every": 1, "server": watch.url, "spool_dir": watch.folder}
        agent = watch_loop(
            accelerator, model, optimizer, project="foreign", run=watch.folder.name, **options
        )
    for ids in batches():
        loss = model(input_ids=ids, labels=ids).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        agent.step(loss=loss)
    agent.close()
    return accelerator.unwrap_model(model).state_dict()


def lightning(watch: Watch) -> dict[str, Tensor]:
    library = pytest.importorskip("lightning.pytorch")

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = llama()

        def training_step(self, ids: Tensor) -> Tensor:
            return self.model(input_ids=ids, labels=ids).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    seed()
    module = Module()
    watch.follow(module.model.model.layers)  # type: ignore[union-attr, arg-type]
    trainer = library.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=watch.folder,
        callbacks=watch.callback("lightning"),
    )
    trainer.fit(module, torch.utils.data.DataLoader(list(batches()), batch_size=None))
    return module.state_dict()


def own_loop(watch: Watch, model: nn.Module, blocks: str | None = None) -> dict[str, Tensor]:
    if blocks is not None:
        watch.follow(model.get_submodule(blocks).children())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent = watch.agent(model, optimizer)
    for ids in batches():
        loss = model(ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.step(loss=loss)
    agent.close()
    return model.state_dict()


def batches() -> Iterator[Tensor]:
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        yield torch.randint(3, len(WORDS), (BATCH, LENGTH), generator=generator)


JOBS: dict[str, Callable[[Watch], dict[str, Tensor]]] = {
    "transformers": transformers_trainer,
    "trl-sft": sft,
    "trl-sft-peft": sft_with_lora,
    "trl-dpo": dpo,
    "trl-grpo": grpo,
    "accelerate": accelerate_loop,
    "lightning": lightning,
    "x-transformers": x_transformers,
    "torch-encoder": torch_encoder,
    "litgpt": litgpt,
}
os.environ.setdefault("HF_HUB_OFFLINE", "1")
