"""The one-layer subject model of Towards Monosemanticity: trained on a corpus, saved as an ordinary Hugging Face directory.

Reference: Bricken et al. 2023, "Towards Monosemanticity", section "Problem Setup": one attention layer and one MLP layer, ReLU,
residual width 128, MLP width 512, Adam. Context length, vocabulary and learning rate are not stated there; ours are the defaults below.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from safetensors.torch import load, save
from torch.nn import functional

from sae.config import WEEK, Config, Real, Seed
from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.corpus.splitting import split_documents
from sae.errors import CorruptObjectError, EmptyCorpusError, PlanError
from sae.pretraining_card import model_card
from sae.records import Record, check_objects, digests_of, get_record, put_record
from sae.storage import Place
from sae.subject.tokenization import SubjectTokenizer, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

STATE_KEY = "training/state.bin"
CONFIG_KEY = "pretraining-config.json"
DONE_KEY = "pretraining.json"
SHA256_BYTES = 32


class TransformerConfig(Config):
    """The shape of the one-layer transformer."""

    d_model: PositiveInt = Field(128, le=16_384, description="residual stream width")
    d_mlp: PositiveInt = Field(512, le=65_536, description="MLP width (ReLU neurons)")
    num_layers: PositiveInt = Field(1, le=128, description="layers")
    num_heads: PositiveInt = Field(4, le=256, description="attention heads a layer")
    vocab_size: PositiveInt = Field(4096, ge=257, le=1_000_000, description="tokens of the byte-level BPE")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model {self.d_model} is no multiple of num_heads {self.num_heads}: change one of them")
        return self


class PretrainingConfig(Config):
    """Configuration of the training of the subject model."""

    corpus: CorpusConfig = CorpusConfig()
    transformer: TransformerConfig = TransformerConfig()
    tokens: PositiveInt = Field(60_000_000, le=10**13, description="training tokens; more than the corpus holds means further epochs")
    sequences_per_batch: PositiveInt = Field(32, le=65_536, description="sequences a step")
    learning_rate: Real = Field(3e-3, gt=0, le=1, description="peak rate of AdamW: 2 % warm-up, then linear to 0")
    weight_decay: Real = Field(0.01, ge=0, le=10, description="decoupled weight decay on matrices")
    bf16: bool = Field(True, description="matrix products in bfloat16, weights in float32")
    checkpoint_seconds: Real = Field(60.0, gt=0, le=WEEK, description="seconds between saved training states")
    seed: Seed = Field(0, description="seed of initial weights and batch order")

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return max(1, self.tokens // (self.sequences_per_batch * self.corpus.context_length))


class PretrainingRecord(Record):
    """`pretraining.json`: what was trained, and what it reached."""

    config: PretrainingConfig
    corpus_digest: str
    training_tokens: PositiveInt
    corpus_tokens: PositiveInt
    validation_loss_nats: NonNegativeFloat
    parameters: PositiveInt
    torch: str
    files: dict[str, str]
    """SHA-256 of each file of the model, by name."""


def pretrain(
    config: PretrainingConfig, output: Place, device: str = "cpu", progress: Callable[[str, int, int], None] = lambda stage, done, total: None
) -> dict[str, Any]:
    """Train tokenizer and model on a corpus and write the Hugging Face directory `output`.

    The directory is finished when `pretraining.json` is there; run again before that, training continues at the last saved state.

    Returns:
        What `pretraining.json` holds (`PretrainingRecord`).

    Raises:
        EmptyCorpusError: text that does not fill one sequence.
        PlanError: `output` holds a model of another configuration.
        InputError, CorruptObjectError: a record, a saved state or the finished model was changed after it was written.
    """
    resolved = config.model_dump(mode="json")
    found = get_record(output, CONFIG_KEY, PretrainingConfig).model_dump(mode="json") if output.exists(CONFIG_KEY) else resolved
    if found != resolved:
        differing = ", ".join(sorted(name for name in resolved if resolved[name] != found[name]))
        raise PlanError(f"{output.url} holds a model trained with another {differing}: choose another output, or delete it")
    put_record(output, CONFIG_KEY, config)
    if output.exists(DONE_KEY):
        return _finished(config, output)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = _tokenizer(config, output, Path(scratch))
    corpus = prepare_corpus(
        config.corpus, tokenizer, output.child("training", "corpus"), lambda tokens: progress("tokenise", tokens, config.corpus.train_tokens or 0)
    )
    model = _train(config, corpus, output, device, progress)
    figures = {
        "corpus_digest": corpus.manifest.digest,
        "training_tokens": config.num_steps * config.sequences_per_batch * config.corpus.context_length,
        "corpus_tokens": corpus.num_sequences("train") * config.corpus.context_length,
        "validation_loss_nats": validation_loss(model, corpus, device),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
    }
    return _write_model(model, output, config, figures)


@torch.no_grad()
def validation_loss(model: "GPT2LMHeadModel", corpus: TokenCorpus, device: str, max_sequences: int = 512) -> float:
    """Mean next-token cross-entropy in nats over the first held-out sequences, every position but the BOS predicted."""
    model.eval()
    total = 0.0
    sequences = corpus.sequences("held_out", 0, min(max_sequences, corpus.num_sequences("held_out")))
    for start in range(0, len(sequences), 32):
        tokens = torch.from_numpy(sequences[start : start + 32].astype(np.int64)).to(device)
        logits = model(tokens).logits[:, :-1].float()
        total += functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").item()
    return total / (len(sequences) * (sequences.shape[1] - 1))


def build_model(config: PretrainingConfig, bos_token_id: int) -> "GPT2LMHeadModel":
    """A freshly initialised model: GPT-2's block with ReLU, learned positions, embedding and unembedding not tied."""
    from transformers import GPT2Config, GPT2LMHeadModel  # seconds of import, which every command would pay for the configuration above

    torch.manual_seed(config.seed)
    shape = config.transformer
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size, n_positions=config.corpus.context_length, n_embd=shape.d_model, n_layer=shape.num_layers,
            n_head=shape.num_heads, n_inner=shape.d_mlp, activation_function="relu", tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=bos_token_id, eos_token_id=bos_token_id, attn_implementation="sdpa",
        )
    )  # fmt: skip


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up over the first 2 % of the steps, then linear to 0 at the last."""
    warm_up = max(1, num_steps // 50)
    return min((step + 1) / warm_up, (num_steps - step) / max(1, num_steps - warm_up))


def batch_of(step: int, sequences_per_batch: int, num_sequences: int, seed: int) -> np.ndarray:
    """Choose the sequences of batch `step`: every epoch is its own permutation of all sequences."""
    start = step * sequences_per_batch
    wanted = np.arange(start, start + sequences_per_batch)
    epochs = {int(epoch): np.random.default_rng((seed, int(epoch))).permutation(num_sequences) for epoch in np.unique(wanted // num_sequences)}
    return np.array([epochs[int(index) // num_sequences][int(index) % num_sequences] for index in wanted])


def _tokenizer(config: PretrainingConfig, output: Place, scratch: Path) -> SubjectTokenizer:
    if output.exists("tokenizer.json"):
        for key in ("tokenizer.json", "tokenizer_config.json"):
            (scratch / key).write_bytes(output.get(key))
        return SubjectTokenizer(str(scratch))
    save_tokenizer(train_tokenizer(_training_text(config.corpus, limit_characters=30_000_000), config.transformer.vocab_size), scratch)
    tokenizer = SubjectTokenizer(str(scratch))
    if len(tokenizer.token_texts) != config.transformer.vocab_size:
        raise EmptyCorpusError(
            f"the text gives a vocabulary of {len(tokenizer.token_texts)} tokens, expected {config.transformer.vocab_size}: "
            "give more text, or a smaller transformer.vocab_size"
        )
    for path in sorted(scratch.iterdir(), reverse=True):  # tokenizer_config.json first: tokenizer.json means that both are there
        if path.name != "tokenizer.json":
            output.put(path.name, path.read_bytes())
    output.put("tokenizer.json", (scratch / "tokenizer.json").read_bytes())
    return tokenizer


def _training_text(corpus: CorpusConfig, limit_characters: int) -> Iterator[str]:
    taken = 0
    for split, text in split_documents(corpus):
        if split == "train":
            taken += len(text)
            yield text
        if taken >= limit_characters:
            return


def _train(
    config: PretrainingConfig, corpus: TokenCorpus, output: Place, device: str, progress: Callable[[str, int, int], None]
) -> "GPT2LMHeadModel":
    model = build_model(config, corpus.manifest.bos_token_id).to(device)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    step = _restore(model, optimizer, output)
    sequences = corpus.sequences("train", 0, corpus.num_sequences("train"))
    saved = time.monotonic()
    tokens_per_step = config.sequences_per_batch * config.corpus.context_length
    model.train()
    while step < config.num_steps:
        rows = batch_of(step, config.sequences_per_batch, len(sequences), config.seed)
        tokens = torch.from_numpy(sequences[rows].astype(np.int64)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.num_steps)
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            logits = model(tokens).logits[:, :-1]
            loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress(f"pretrain (loss {loss.item():.3f})" if step % 20 == 0 else "pretrain", step * tokens_per_step, config.num_steps * tokens_per_step)
        if time.monotonic() - saved > config.checkpoint_seconds:
            _save(model, optimizer, output, step)
            saved = time.monotonic()
    return model


def _save(model: "GPT2LMHeadModel", optimizer: torch.optim.Optimizer, output: Place, step: int) -> None:
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()} | {"step": torch.tensor(step)})
    output.put(STATE_KEY, data + hashlib.sha256(data).digest())


def _restore(model: "GPT2LMHeadModel", optimizer: torch.optim.Optimizer, output: Place) -> int:
    if not output.exists(STATE_KEY):
        return 0
    state = output.get(STATE_KEY)
    data, digest = state[:-SHA256_BYTES], state[-SHA256_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptObjectError(f"{output.path(STATE_KEY)} was changed after it was written. Delete it to train from the beginning")
    tensors = load(data)
    step = int(tensors["step"])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"model.{name}"])
        moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step


def _write_model(model: "GPT2LMHeadModel", output: Place, config: PretrainingConfig, figures: dict[str, Any]) -> dict[str, Any]:
    written = ["tokenizer.json", "tokenizer_config.json"]
    with tempfile.TemporaryDirectory() as scratch:
        model.half().save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            output.put(path.name, path.read_bytes())
            written.append(path.name)
    record = PretrainingRecord(config=config, files=digests_of(output, sorted(written)), **figures)
    result = record.model_dump(mode="json")
    output.put("README.md", model_card(result).encode())
    put_record(output, DONE_KEY, record)
    return result


def _finished(config: PretrainingConfig, output: Place) -> dict[str, Any]:
    """The record of a finished model, proved with its files."""
    record = get_record(output, DONE_KEY, PretrainingRecord)
    if record.config != config:
        raise CorruptObjectError(f"{output.path(DONE_KEY)} is of another configuration than {CONFIG_KEY}. Delete {output.url} and train again")
    check_objects(output, record.files, output.path(DONE_KEY))
    return record.model_dump(mode="json")
