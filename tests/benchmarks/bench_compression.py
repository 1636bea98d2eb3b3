"""How much smaller zstd makes stored activations of the embedded model, as they lie and byte-shuffled (all high bytes, then all low ones)."""

import time

import numpy as np
import pyarrow as pa
import torch

from sae.store.schema import RECORD_BATCH_ROWS, TORCH_DTYPES
from sae.subject.model import Subject, SubjectConfig
from tests.benchmarks.harness import Measurement
from tests.benchmarks.harvests import embedded_corpus, on_disk

HOOKPOINTS = {"relu": "blocks.0.mlp.hook_post", "residual": "blocks.0.hook_resid_post"}
ZSTD_LEVEL = 1  # the store's own
TOKENS = 2**16


def measure() -> Measurement:
    subject = Subject.load(SubjectConfig())
    with on_disk() as directory:
        corpus = embedded_corpus(directory, TOKENS)
        tokens = torch.from_numpy(corpus.sequences("train", 0, corpus.num_sequences("train")).astype(np.int64))
    found = [subject.activations(part, list(HOOKPOINTS.values())) for part in tokens.split(32)]
    codec, ratios, decoding = pa.Codec("zstd", ZSTD_LEVEL), {}, {}
    for name, hookpoint in HOOKPOINTS.items():
        rows = torch.cat([part[hookpoint][:, 1:].flatten(0, 1) for part in found])
        for dtype in ("float16", "bfloat16"):
            stored = rows.to(TORCH_DTYPES[dtype]).view(torch.uint8).numpy()
            batches = [stored[start : start + RECORD_BATCH_ROWS] for start in range(0, len(stored), RECORD_BATCH_ROWS)]
            plain = [codec.compress(batch.tobytes(), asbytes=True) for batch in batches]
            shuffled = [codec.compress(batch.reshape(-1, 2).T.tobytes(), asbytes=True) for batch in batches]
            ratios[f"{name}_{dtype}"] = stored.size / sum(map(len, plain))
            ratios[f"{name}_{dtype}_byte_shuffled"] = stored.size / sum(map(len, shuffled))
            began = time.perf_counter()
            for data, batch in zip(plain, batches, strict=True):
                codec.decompress(data, batch.size)
            decoding[f"{name}_{dtype}"] = round(stored.size / (time.perf_counter() - began) / 1e6)
    return Measurement(ratios["relu_float16"], "times smaller", ratios, details={"decoded_megabytes_per_second": decoding})
