"""Shards whose metadata lies, read one after the other in a process of their own: `python -m tests.sae.store.lying_shards DIRECTORY`.

Each 32-bit and 64-bit number of the metadata is set to each of `VALUES`. Prints how many shards were refused, how many were read as the rows they
are, and how many as other rows, of which there should be none.
"""

import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from sae.storage import ArrowFileError, Place
from sae.store.manifest import shard_key
from sae.store.reader import Store
from sae.store.schema import ShardRows, shard_schema
from tests.sae.store.forging import D_IN, HOOKPOINT

VALUES = (-1, 0, 1, 27, 4096, 2**20, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))


def changed_numbers(data: bytes, metadata: list[int]) -> Iterator[bytes]:
    """`data` with the number at each place of its metadata set to each of the values."""
    for at in metadata:
        for form, size in (("<q", 8), ("<i", 4)):
            for value in VALUES:
                if at + size <= len(data) and (size == 8 or -(2**31) <= value < 2**31):
                    yield data[:at] + struct.pack(form, value) + data[at + size :]


def main(url: str) -> None:
    """Read every changed shard."""
    store = Store(Place(url))
    compressed = store.plan.compression != "none"
    data, schema = store.place.get(shard_key(HOOKPOINT, 0)), shard_schema(HOOKPOINT, D_IN, "float16")
    whole = ShardRows(pa.py_buffer(data), schema, compressed)
    spans = [range(start, stop) for start, stop in whole._file._batches[0].spans]
    # A compressed buffer begins with its length.
    values = [range(span.start + 8 * compressed - 7, span.stop) for span in spans]
    metadata = [at for at in range(0, len(data), 4) if not any(at in span for span in values)]
    found: Counter[str] = Counter()
    expected = whole.table()
    for changed in changed_numbers(data, metadata):
        try:
            rows = ShardRows(pa.py_buffer(changed), schema, compressed)
            if rows.num_rows != whole.num_rows:  # which the receipt says
                raise ArrowFileError
            found["read" if rows.table().equals(expected) else "other rows"] += 1
        except ArrowFileError:
            found["refused"] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
