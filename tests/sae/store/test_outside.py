"""A store is read without this package: with pyarrow and with Hugging Face datasets, as docs/store.md says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard

HOOKPOINT = "blocks.0.mlp.hook_post"


def write(place: Place, dtype: str, compression: str) -> Store:
    plan = StorePlan(
        subject="planted", subject_digest="s", corpus_digest="c", context_length=8, hookpoints={HOOKPOINT: 6}, dtype=dtype, compression=compression,
        num_sequences=8, sequences_per_shard=4, special_token_ids=[0],
    )  # fmt: skip
    start_store(place, plan)
    for shard in range(plan.num_shards):
        tokens = np.arange(32, dtype=np.uint32).reshape(4, 8) + 32 * shard
        write_shard(place, plan, shard, tokens, {HOOKPOINT: torch.from_numpy(tokens.astype(np.float32))[..., None] / 4 + torch.arange(6) / 8})
    finish_store(place, plan)
    return Store(place)


def stored(store: Store) -> torch.Tensor:
    return torch.cat([piece.float() for shard, rows in enumerate(store.shard_rows(HOOKPOINT)) for piece in store.pieces(HOOKPOINT, shard, 0, rows)])


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_pyarrow_reads_all_columns(tmp_path, compression):
    import pyarrow.dataset

    store = write(Place(tmp_path), "float16", compression)
    table = pyarrow.dataset.dataset(f"{tmp_path}/shards/{HOOKPOINT}", format="ipc").to_table()
    assert table.column_names == ["sequence_id", "position", "token_id", "activation"]
    found = np.stack(table["activation"].to_numpy())
    np.testing.assert_array_equal(found.astype(np.float32), stored(store).numpy())


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_datasets_reads_it(tmp_path, compression):
    import datasets

    store = write(Place(tmp_path / "store"), "float32", compression)
    found = datasets.load_dataset(
        "arrow", data_files=f"{tmp_path}/store/shards/{HOOKPOINT}/*.arrow", split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("torch")
    assert len(found) == store.num_rows(HOOKPOINT)
    torch.testing.assert_close(found["activation"][:], stored(store), rtol=0, atol=0)


def test_bfloat16_is_its_bits(tmp_path):
    import pyarrow.dataset

    store = write(Place(tmp_path), "bfloat16", "none")
    table = pyarrow.dataset.dataset(f"{tmp_path}/shards/{HOOKPOINT}", format="ipc").to_table()
    bits = np.stack(table["activation"].to_numpy())
    assert bits.dtype == np.uint16
    torch.testing.assert_close(torch.from_numpy(bits).view(torch.bfloat16).float(), stored(store), rtol=0, atol=0)


def test_the_lines_of_the_documentation_work(tmp_path):
    text = (Path(__file__).parents[3] / "docs/store.md").read_text()
    found = re.findall(r"```python\n(import pyarrow\.dataset.*?)```", text, flags=re.DOTALL)
    assert found, "docs/store.md no longer shows how a store is read from outside"
    store = write(Place(tmp_path), "float16", "none")
    names: dict = {}
    exec(found[0].replace("runs/quickstart/store", str(tmp_path)), names)
    assert names["table"].num_rows == store.num_rows(HOOKPOINT)
