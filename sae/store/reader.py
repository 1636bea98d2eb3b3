"""Reading a finished store. The receipt of a shard decides whether it is whole, never the shard's own footer.

An Arrow file that was cut short by an exception inside its writer still opens, with fewer rows. So each shard is compared with its
receipt (size, XXH3-128, rows) before the first of its rows is handed out. Objects that the manifest does not name are not looked at.
"""

import threading
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Shaped, UInt32
from torch import Tensor

from sae.corpus.packing import sequences_from_ipc
from sae.errors import CorruptObjectError, HookpointError, InputError
from sae.notebook import curve, fragment
from sae.storage import ArrowFileError, Place, sha256_hex
from sae.store.download import Downloads
from sae.store.manifest import (
    MANIFEST_KEY,
    PLAN_KEY,
    ShardEntry,
    StoreManifest,
    StorePlan,
    read_manifest,
    receipt_key,
    shard_key,
    tokens_key,
)
from sae.store.schema import ShardRows, row_bytes, shard_schema
from sae.store.shards import OpenShards, checksum
from sae.store.statistics import HookpointStatistics


class Store:
    """A finished store, open for reading; may be used from several threads.

    Shards are memory-mapped where the store is local, and fetched in ranges over several connections where it is remote.

    Args:
        place: of the store.
        manifest: where it is read already, by whoever does not believe it; null reads and proves it.

    Raises:
        InputError: there is no store at this place, or none that is finished.
        CorruptObjectError: its manifest or plan was changed after it was written.
    """

    def __init__(self, place: Place, manifest: StoreManifest | None = None) -> None:
        if not place.exists(MANIFEST_KEY):
            state = (
                "an unfinished store: run its harvest again, it continues"
                if place.exists(PLAN_KEY)
                else "no store: run the harvest, or check the path"
            )
            raise InputError(f"{place.url} holds {state}")
        self._begin(place)
        self._manifest = manifest or read_manifest(place)

    def _begin(self, place: Place) -> None:
        self.place = place
        self.downloads = Downloads(place)
        self._shards = OpenShards(self._read)
        self._verified: set[str] = set()

    @property
    def manifest(self) -> StoreManifest:
        """Return the manifest."""
        return self._manifest

    @property
    def plan(self) -> StorePlan:
        """The plan it was made by."""
        return self.manifest.plan

    def statistics(self, hookpoint: str) -> HookpointStatistics:
        """Mean and norms of a hookpoint's activations."""
        self.width(hookpoint)
        return self.manifest.statistics[hookpoint]

    def width(self, hookpoint: str) -> int:
        """`d_in` of a hookpoint."""
        if hookpoint not in self.plan.hookpoints:
            raise HookpointError(f"{self.place.url} has no hookpoint {hookpoint!r} but {', '.join(sorted(self.plan.hookpoints))}")
        return self.plan.hookpoints[hookpoint]

    def shard_rows(self, hookpoint: str) -> list[int]:
        """Rows of each shard."""
        self.width(hookpoint)
        return [entry.rows for entry in self.manifest.shards[hookpoint]]

    def num_rows(self, hookpoint: str) -> int:
        """Rows of all shards."""
        return sum(self.shard_rows(hookpoint))

    def open(self, hookpoint: str, shards: Iterable[int]) -> list[ShardRows]:
        """The rows of several shards, verified. Threads that want the same shards share the work.

        Raises:
            CorruptObjectError: a shard differs from its receipt.
            HookpointError: the store has no such hookpoint.
        """
        self.width(hookpoint)
        return self._shards.get(shard_key(hookpoint, shard) for shard in shards)

    def wait(self, hookpoint: str, shards: Iterable[int], ended: threading.Event) -> bool:
        """Wait until the shards are written, as they all are in a finished store; False if `ended` was set before."""
        return not ended.is_set()

    def _repr_html_(self) -> str:
        """Numbers of the store, and the mean length of its activations at each position, for a notebook."""
        plan = self.plan
        facts: dict[str, object] = {
            "place": self.place.url,
            "subject": plan.subject,
            "context length": plan.context_length,
            "shards": plan.num_shards,
        }
        facts |= {"precision": plan.dtype, "compression": plan.compression}
        facts |= {f"{hookpoint}, rows × width": f"{self.num_rows(hookpoint):,} × {width:,}" for hookpoint, width in plan.hookpoints.items()}
        first = next(iter(plan.hookpoints))
        norms = np.asarray(self.statistics(first).position_mean_norm)
        return fragment("Store", facts, [curve(norms, f"mean ‖x‖ by position, {first}")])

    def __repr__(self) -> str:
        """Where it is and what it holds."""
        held = ", ".join(f"{hookpoint}: {self.num_rows(hookpoint):,} × {width:,}" for hookpoint, width in self.plan.hookpoints.items())
        return f"Store({self.place.url!r}, {held})"

    def verify(self) -> Sequence[str]:
        """Read every object of the store and prove it; see `sae.store.verify_store`.

        Returns:
            One line for each fault; empty where the store is whole.
        """
        from sae.store.verification import verify_store  # which reads stores by this class

        return verify_store(self.place)

    def close(self, hookpoint: str, shards: Iterable[int]) -> None:
        """Forget shards whose rows nobody needs for a while."""
        self._shards.close(shard_key(hookpoint, shard) for shard in shards)

    def estimated_bytes(self, hookpoint: str, shard: int) -> int:
        """Estimate the memory of an open shard if the store is remote; compressed, it takes less."""
        return self.shard_rows(hookpoint)[shard] * row_bytes(self.width(hookpoint), self.plan.dtype)

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that open shards take: none where the store is local."""
        return self._shards.held_bytes

    def table(self, hookpoint: str, shard: int) -> pa.Table:
        """A shard as an Arrow table.

        Raises:
            CorruptObjectError: it differs from its receipt.
            HookpointError: the store has no such hookpoint.
        """
        return self.open(hookpoint, [shard])[0].table()

    def pieces(self, hookpoint: str, shard: int, start: int, stop: int) -> list[Shaped[Tensor, "_ d_in"]]:
        """Activations `[start, stop)` of a shard in the dtype of the store, as read-only views, one per record batch they touch."""
        return self.open(hookpoint, [shard])[0].pieces(start, stop)

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
        entry = self.entry(next(iter(self.plan.hookpoints)), shard)
        first, stop = self.plan.shard_range(shard)
        buffer = self._buffer(tokens_key(shard))
        if sha256_hex(buffer) != entry.tokens_sha256:
            raise self._corrupt(tokens_key(shard), "its SHA-256 is not the one of the receipt")
        try:
            return sequences_from_ipc(buffer, first, stop, self.plan.context_length)
        except ArrowFileError as error:
            raise self._corrupt(tokens_key(shard), str(error)) from None

    def read_whole(self, hookpoint: str, shard: int) -> ShardRows:
        """The rows of a shard whose SHA-256 and size are those of its receipt; nothing of it stays open.

        Raises:
            CorruptObjectError: it differs from its receipt.
        """
        entry, key = self.entry(hookpoint, shard), shard_key(hookpoint, shard)
        buffer = self._buffer(key)
        self._check_size(key, buffer.size, entry)
        if sha256_hex(buffer) != entry.sha256:
            raise self._corrupt(key, "its SHA-256 is not the one of its receipt")
        return self._rows_of(key, buffer, entry)

    def entry(self, hookpoint: str, shard: int) -> ShardEntry:
        """Return the entry of a shard, from its receipt."""
        self.width(hookpoint)
        return self.manifest.shards[hookpoint][shard]

    def _read(self, key: str) -> tuple[ShardRows, int]:
        hookpoint, shard = _shard_of(key)
        entry = self.entry(hookpoint, shard)
        if self.place.local_path() is None:
            try:
                buffer, found = self.downloads.fetch(key, entry.bytes)
            except InputError:
                raise self._corrupt(key, "it is not there") from None
            except EOFError as error:
                raise self._corrupt(key, f"{error}, its receipt says {entry.bytes:,} bytes") from None
        else:
            buffer = self._buffer(key)
            self._check_size(key, buffer.size, entry)
            found = entry.checksum if key in self._verified else checksum(buffer)
        if found != entry.checksum:
            raise self._corrupt(key, "its XXH3 checksum is not the one of its receipt")
        rows = self._rows_of(key, buffer, entry)
        self._verified.add(key)
        return rows, 0 if self.place.local_path() else buffer.size

    def _check_size(self, key: str, size: int, entry: ShardEntry) -> None:
        if size != entry.bytes:
            raise self._corrupt(key, f"it has {size:,} bytes, its receipt says {entry.bytes:,}")

    def _rows_of(self, key: str, buffer: pa.Buffer, entry: ShardEntry) -> ShardRows:
        hookpoint, shard = _shard_of(key)
        try:
            schema = shard_schema(hookpoint, self.width(hookpoint), self.plan.dtype)
            rows = ShardRows(buffer, schema, self.plan.compression != "none", partial(self._corrupt, key))
            if rows.num_rows != entry.rows:
                raise ArrowFileError(f"it has {rows.num_rows:,} rows, its receipt says {entry.rows:,}")
            if key not in self._verified:
                _check_origins(rows, self.plan, shard)
        except ArrowFileError as error:
            raise self._corrupt(key, str(error)) from None
        return rows

    def _buffer(self, key: str) -> pa.Buffer:
        try:
            return self.place.open_buffer(key)
        except InputError:
            raise self._corrupt(key, "it is not there") from None
        except pa.ArrowInvalid as error:  # an empty file cannot be mapped
            raise self._corrupt(key, str(error)) from None

    def _corrupt(self, key: str, reason: str) -> CorruptObjectError:
        kind, *_, number = key.removesuffix(".arrow").split("/")
        names = [name for name in sorted(self.plan.hookpoints) if kind == "tokens" or key == shard_key(name, int(number))]
        remedy = " and ".join([*(receipt_key(name, int(number)) for name in names), MANIFEST_KEY])
        return CorruptObjectError(f"{self.place.path(key)} cannot be trusted, {reason}: delete {remedy} and run the harvest again")


def _check_origins(rows: ShardRows, plan: StorePlan, shard: int) -> None:
    first, stop = plan.shard_range(shard)
    for sequence_ids, positions, _ in rows.origins():
        if sequence_ids.min() < first or sequence_ids.max() >= stop or positions.max() >= plan.context_length:
            raise ArrowFileError(
                f"it has rows of other sequences than {first:,} to {stop - 1:,} or other positions than 0 to {plan.context_length - 1:,}"
            )


def _shard_of(key: str) -> tuple[str, int]:
    _, *hookpoint, number = key.removesuffix(".arrow").split("/")
    return "/".join(hookpoint), int(number)
