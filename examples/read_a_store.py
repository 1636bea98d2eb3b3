"""Write a store, read it as tensors, and as Arrow without this package.

Run: python examples/read_a_store.py
"""

import numpy as np
import pyarrow.dataset

import sae

vectors = np.random.default_rng(0).normal(size=(5_000, 16)).astype("float32")
store = sae.write_store("my-store", {"blocks.0.mlp.hook_post": vectors})
print(store.num_rows("blocks.0.mlp.hook_post"), "rows,", len(store.shard_rows("blocks.0.mlp.hook_post")), "shards")

[first] = store.pieces("blocks.0.mlp.hook_post", shard=0, start=0, stop=4)  # verified rows, views of the mapped file
print(first.shape, first.dtype)

table = pyarrow.dataset.dataset("my-store/shards/blocks.0.mlp.hook_post", format="ipc").to_table()
print(table.num_rows, table.column_names)
