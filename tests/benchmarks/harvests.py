"""What the benchmarks of the harvest share: the embedded model on real text, its bare forward pass, and a worker without Ray."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

from sae.corpus.packing import TokenCorpus, prepare_corpus
from sae.corpus.sources import CorpusConfig
from sae.storage import Place
from sae.store.harvest import HarvestConfig, HarvestWorker, SubjectProbe, make_plan
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.subject.model import EMBEDDED_DIRECTORY, Subject, SubjectConfig
from sae.subject.tokenization import SubjectTokenizer

HOOKPOINT = "blocks.0.mlp.hook_post"
DISK = Path("/var/tmp")  # a disk by convention, where /tmp may be memory


@contextlib.contextmanager
def on_disk() -> Iterator[Path]:
    """A directory on a local disk, for as long as the `with` lasts."""
    directory = Path(tempfile.mkdtemp(prefix="monosem-bench-", dir=DISK))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def embedded_corpus(directory: Path, tokens: int) -> TokenCorpus:
    """Real text (sources of PyTorch, which are there without a search), packed in sequences of 256 tokens."""
    config = CorpusConfig(
        text=[str(Path(torch.__file__).parent / "_inductor" / "*.py")], context_length=256, train_tokens=tokens, held_out_tokens=256
    )
    return prepare_corpus(config, SubjectTokenizer(str(EMBEDDED_DIRECTORY)), Place(directory / "corpus"))


def embedded_plan(corpus: TokenCorpus, subject: SubjectConfig, **changes: object) -> StorePlan:
    """The plan of a store of the embedded model's MLP activations."""
    return make_plan(HarvestConfig(**changes), corpus, subject, SubjectProbe(subject).run([HOOKPOINT]))


class InProcess:
    """A harvest worker in this process, two shards at once as in a pool."""

    def __init__(self, corpus: TokenCorpus, plan: StorePlan, store: Path | str, subject: SubjectConfig) -> None:
        self.plan, self.place = plan, Place(store)
        start_store(self.place, plan)
        self.worker = HarvestWorker(plan, corpus.place.url, str(store), subject)

    def run(self, shards: list[int]) -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(self.worker.run, shards))

    def finish(self) -> None:
        finish_store(self.place, self.plan)


def bare_forward(dtype: torch.dtype = torch.float32) -> Callable[[np.ndarray], torch.Tensor]:
    """The same model to the same hookpoint in plain torch calls: embedding, layer norms, fused attention, MLP; nothing kept."""
    model = GPT2LMHeadModel.from_pretrained(EMBEDDED_DIRECTORY, dtype=dtype).eval().transformer
    block, heads = model.h[0], model.config.n_head

    @torch.inference_mode()
    def forward(tokens: np.ndarray) -> torch.Tensor:
        x = model.wte.weight[torch.from_numpy(tokens.astype(np.int64))] + model.wpe.weight[: tokens.shape[1]]
        sequences, length, width = x.shape
        normed = functional.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias)
        joint = torch.addmm(block.attn.c_attn.bias, normed.view(-1, width), block.attn.c_attn.weight)
        queries, keys, values = joint.view(sequences, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(1, 2).reshape(-1, width)
        x = x.view(-1, width) + torch.addmm(block.attn.c_proj.bias, mixed, block.attn.c_proj.weight)
        normed = functional.layer_norm(x, (width,), block.ln_2.weight, block.ln_2.bias)
        return torch.relu(torch.addmm(block.mlp.c_fc.bias, normed, block.mlp.c_fc.weight)).view(sequences, length, -1)

    return forward


def check_bare_forward(forward: Callable[[np.ndarray], torch.Tensor], tokens: np.ndarray) -> None:
    """The bare forward pass gives the subject's activations."""
    expected = Subject.load(SubjectConfig()).activations(torch.from_numpy(tokens.astype(np.int64)), [HOOKPOINT])[HOOKPOINT]
    torch.testing.assert_close(forward(tokens), expected, atol=1e-4, rtol=1e-4)
