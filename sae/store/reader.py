"""Reading a finished store. The receipt of a shard decides whether it is whole, never the shard's own footer.

An Arrow file that was cut short by an exception inside its writer still opens, with fewer rows. So each shard is compared with its
receipt (size, SHA-256, rows) when a process first opens it.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Shaped, UInt32
from torch import Tensor

from sae.corpus.packing import sequences_from_ipc
from sae.errors import CorruptObjectError, HookpointError, InputError
from sae.storage import Place, sha256_hex
from sae.store.manifest import MANIFEST_KEY, PLAN_KEY, HookpointStatistics, ShardEntry, StorePlan, read_manifest, receipt_key, shard_key, tokens_key
from sae.store.schema import activation_pieces

MAX_OPEN_SHARDS = 32  # two groups of the batch order; a remote shard is held in memory as long as it is open
CONCURRENT_OPENS = 8


class Store:
    """A finished store, open for reading; may be used from several threads.

    Shards are memory-mapped where the store is local, and read whole, several at a time, where it is remote.

    Args:
        place: of the store.

    Raises:
        InputError: there is no store at this place, or none that is finished.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        if not place.exists(MANIFEST_KEY):
            state = (
                "an unfinished store: run its harvest again, it continues"
                if place.exists(PLAN_KEY)
                else "no store: run the harvest, or check the path"
            )
            raise InputError(f"{place.url} holds {state}")
        self.manifest = read_manifest(place)
        self._open: OrderedDict[str, pa.Table] = OrderedDict()
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    @property
    def plan(self) -> StorePlan:
        """The plan it was made by."""
        return self.manifest.plan

    def statistics(self, hookpoint: str) -> HookpointStatistics:
        """Mean and norms of a hookpoint's activations."""
        self._entries(hookpoint)
        return self.manifest.statistics[hookpoint]

    def width(self, hookpoint: str) -> int:
        """`d_in` of a hookpoint."""
        self._entries(hookpoint)
        return self.plan.hookpoints[hookpoint]

    def shard_rows(self, hookpoint: str) -> list[int]:
        """Rows of each shard."""
        return [entry.rows for entry in self._entries(hookpoint)]

    def num_rows(self, hookpoint: str) -> int:
        """Rows of all shards."""
        return sum(self.shard_rows(hookpoint))

    def open(self, hookpoint: str, shards: Iterable[int]) -> None:
        """Open and verify several shards at once, so that none waits for another's download.

        Raises:
            CorruptObjectError: a shard differs from its receipt.
        """
        with self._lock:
            wanted = [shard for shard in shards if shard_key(hookpoint, shard) not in self._open]
        if len(wanted) > 1:
            with ThreadPoolExecutor(CONCURRENT_OPENS) as pool:
                list(pool.map(lambda shard: self.table(hookpoint, shard), wanted))

    def table(self, hookpoint: str, shard: int) -> pa.Table:
        """A shard as an Arrow table.

        Raises:
            CorruptObjectError: it differs from its receipt.
            HookpointError: the store has no such hookpoint.
        """
        key = shard_key(hookpoint, shard)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        table = self._read(hookpoint, shard)
        with self._lock:
            self._open[key] = table
            while len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return table

    def pieces(self, hookpoint: str, shard: int, start: int, stop: int) -> list[Shaped[Tensor, "_ d_in"]]:
        """Activations `[start, stop)` of a shard in the dtype of the store, as read-only views, one per record batch they touch."""
        return activation_pieces(self.table(hookpoint, shard), start, stop)

    def rows(self, hookpoint: str, shard: int, start: int, stop: int) -> Float[np.ndarray, "row d_in"]:
        """Activations `[start, stop)` of a shard.

        A read-only view where the rows lie in one record batch, else a copy. NumPy has no bfloat16: such a store gives float32.
        """
        pieces = [piece.float() if self.plan.dtype == "bfloat16" else piece for piece in self.pieces(hookpoint, shard, start, stop)]
        if len(pieces) == 1:
            view: np.ndarray = pieces[0].numpy()
            view.flags.writeable = False
            return view
        empty = np.empty((0, self.width(hookpoint)), np.float32 if self.plan.dtype == "bfloat16" else self.plan.dtype)
        return np.concatenate([piece.numpy() for piece in pieces]) if pieces else empty

    def sequence_tokens(self, shard: int) -> UInt32[np.ndarray, "sequence position"]:
        """The packed sequences of a shard, the first of them numbered `plan.shard_range(shard)[0]`.

        Raises:
            CorruptObjectError: the object differs from its receipt.
        """
        entry = next(iter(self.manifest.shards.values()))[shard]
        buffer = self._buffer(tokens_key(shard))
        if sha256_hex(buffer) != entry.tokens_sha256:
            raise self._corrupt(tokens_key(shard), "its SHA-256 is not the one of the receipt")
        return sequences_from_ipc(buffer)

    def verify(self) -> list[str]:
        """Read every object of the store; returns one line for each that is not what its receipt says."""
        problems = []
        for shard in range(self.plan.num_shards):
            try:
                self.sequence_tokens(shard)
            except CorruptObjectError as error:
                problems.append(str(error))
            for hookpoint in self.plan.hookpoints:
                self._verified.discard(shard_key(hookpoint, shard))
                try:
                    self._read(hookpoint, shard)
                except CorruptObjectError as error:
                    problems.append(str(error))
        return problems

    def _read(self, hookpoint: str, shard: int) -> pa.Table:
        entry, key = self._entries(hookpoint)[shard], shard_key(hookpoint, shard)
        buffer = self._buffer(key)
        if buffer.size != entry.bytes:
            raise self._corrupt(key, f"it has {buffer.size:,} bytes, its receipt says {entry.bytes:,}")
        if key not in self._verified and sha256_hex(buffer) != entry.sha256:
            raise self._corrupt(key, "its SHA-256 is not the one of its receipt")
        try:
            table = pa.ipc.open_file(buffer).read_all()
        except pa.ArrowInvalid as error:
            raise self._corrupt(key, f"it is no Arrow file ({error})") from None
        if table.num_rows != entry.rows:
            raise self._corrupt(key, f"it has {table.num_rows:,} rows, its receipt says {entry.rows:,}")
        self._verified.add(key)
        return table

    def _buffer(self, key: str) -> pa.Buffer:
        try:
            return self.place.open_buffer(key)
        except InputError:
            raise self._corrupt(key, "it is not there") from None
        except pa.ArrowInvalid as error:  # an empty file cannot be mapped
            raise self._corrupt(key, str(error)) from None

    def _entries(self, hookpoint: str) -> list[ShardEntry]:
        if hookpoint not in self.manifest.shards:
            raise HookpointError(f"{self.place.url} has no hookpoint {hookpoint!r} but {', '.join(sorted(self.manifest.shards))}")
        return self.manifest.shards[hookpoint]

    def _corrupt(self, key: str, reason: str) -> CorruptObjectError:
        kind, *_, number = key.removesuffix(".arrow").split("/")
        names = [name for name in sorted(self.plan.hookpoints) if kind == "tokens" or key == shard_key(name, int(number))]
        remedy = " and ".join([*(receipt_key(name, int(number)) for name in names), MANIFEST_KEY])
        return CorruptObjectError(f"{self.place.path(key)} cannot be trusted, {reason}: delete {remedy} and run the harvest again")
