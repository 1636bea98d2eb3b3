"""A store that was changed is refused in one line, even where every digest was made to agree: no crash, no other rows, nothing allocated."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.show_store import show_store
from sae.errors import CorruptObjectError, MonosemError
from sae.storage import Place
from sae.store.manifest import PLAN_KEY, finish_store, read_manifest, read_plan, receipt_key, shard_key, start_store
from sae.store.reader import Store
from sae.store.verification import verify_store
from tests.sae.store.forging import D_IN, HOOKPOINT, change_manifest, replace_shard, write_small_store

ROOT = Path(__file__).parents[3]
ROWS = 28  # of a shard
OTHER = "blocks.0.hook_resid_post"


@pytest.fixture
def place(tmp_path):
    write_small_store(Place(tmp_path / "store"))
    return Place(tmp_path / "store")


def outcome(read):
    """What a call returns, or its error in one line."""
    try:
        return read()
    except MonosemError as error:
        return str(error).replace("\n", "LINE BREAK")


def all_rows(place: Place) -> torch.Tensor:
    store = Store(place)
    return torch.cat([piece for shard, rows in enumerate(store.shard_rows(HOOKPOINT)) for piece in store.pieces(HOOKPOINT, shard, 0, rows)])


# Arrow metadata that lies


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_number_of_a_shards_metadata_crashes_the_reader_or_gives_other_rows(tmp_path, compression):
    write_small_store(Place(tmp_path), compression)
    run = [sys.executable, "-m", "tests.sae.store.lying_shards", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"refused", "read"}
    assert found["refused"] > 3000
    assert found["read"] > 100  # padding, and the schema that stands a second time at the front


@pytest.mark.parametrize("rows", [2**20, 2**31, 2**40, 2**63 - 1, -1, 0, 27])
@pytest.mark.parametrize("told", ["in the file", "everywhere"])
def test_a_row_count_that_lies_is_one_line_in_every_way_of_reading(place, rows, told):
    data = place.get(shard_key(HOOKPOINT, 0))
    for per_row in (1, D_IN):
        data = data.replace(struct.pack("<q", ROWS * per_row), struct.pack("<q", max(-1, min(rows * per_row, 2**63 - 1))))
    replace_shard(place, data, rows=max(0, rows) if told == "everywhere" else ROWS)
    for read in (all_rows, lambda place: Store(place).table(HOOKPOINT, 0), lambda place: Store(place).rows(HOOKPOINT, 0, 0, 5)):
        with pytest.raises(CorruptObjectError, match="cannot be trusted, ") as error:
            read(place)
        assert "\n" not in str(error.value)
    assert verify_store(place)


def rewritten(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), pa.field(name, values.type, field.nullable, field.metadata), values)


def narrow(table):
    return with_column(table, "activation", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * 3, np.float16)), 3))


def with_nulls(table):
    return with_column(table, "position", pa.array([None, *range(ROWS - 1)], pa.uint32()))


CHANGED_FILES = {
    "narrower": (narrow, {}),
    "wider numbers": (lambda table: with_column(table, "token_id", table["token_id"].cast(pa.uint64()).combine_chunks()), {}),
    "a column more": (lambda table: table.append_column("more", table["token_id"]), {}),
    "a column less": (lambda table: table.drop_columns(["token_id"]), {}),
    "nulls": (with_nulls, {}),
    "another hookpoint": (lambda table: table.replace_schema_metadata({"hookpoint": "blocks.1"}), {}),
    "a dictionary": (lambda table: with_column(table, "token_id", table["token_id"].dictionary_encode().combine_chunks()), {}),
    "zstd": (lambda table: table, {"compression": "zstd"}),
    "lz4": (lambda table: table, {"compression": "lz4"}),
    "an older format": (lambda table: table, {"metadata_version": pa.ipc.MetadataVersion.V4}),
    "two record batches": (lambda table: pa.concat_tables([table.slice(0, 5), table.slice(5)]), {}),
    "a position beyond the sequence": (lambda table: with_column(table, "position", pa.array([8] * ROWS, pa.uint32())), {}),
    "sequences of another shard": (lambda table: with_column(table, "sequence_id", pa.array([4] * ROWS, pa.uint64())), {}),
}


@pytest.mark.parametrize("name", CHANGED_FILES)
def test_an_arrow_file_that_is_not_the_plans_is_refused(place, name):
    change, options = CHANGED_FILES[name]
    replace_shard(place, rewritten(change(Store(place).table(HOOKPOINT, 0)), **options))
    with pytest.raises(CorruptObjectError, match=r"000000\.arrow cannot be trusted, .*: delete "):
        Store(place).open(HOOKPOINT, [0])
    assert len([problem for problem in verify_store(place) if "000000.arrow" in problem]) == 1


def test_a_compressed_shard_gives_no_more_bytes_than_its_rows_take(tmp_path):
    place = Place(tmp_path)
    store = write_small_store(place, "zstd")
    size = ROWS * D_IN * 2
    [at] = [
        at
        for at in range(0, len(place.get(shard_key(HOOKPOINT, 0))) - 8, 8)
        if place.get(shard_key(HOOKPOINT, 0))[at : at + 8] == struct.pack("<q", size)
    ]
    whole = place.get(shard_key(HOOKPOINT, 0))
    bomb = pa.compress(bytes(10**7), codec="zstd", asbytes=True)
    assert len(bomb) < len(whole) - at
    replace_shard(place, whole[:at] + struct.pack("<q", 10**7) + bomb + whole[at + 8 + len(bomb) :])
    with pytest.raises(CorruptObjectError, match="a column has 10,000,000 bytes of values, expected 336"):
        Store(place).open(HOOKPOINT, [0])
    replace_shard(place, whole[: at + 8] + bytes(16) + whole[at + 24 :])
    with pytest.raises(CorruptObjectError, match=r"000000\.arrow cannot be trusted, it cannot be decoded"):
        Store(place).rows(HOOKPOINT, 0, 0, 5)
    assert store.shard_rows(HOOKPOINT)[0] == ROWS


# Rows that are not what plan, sequences and receipts say: found by verification


def test_verification_names_a_shard_whose_rows_were_exchanged(place):
    table = Store(place).table(HOOKPOINT, 0)
    replace_shard(place, rewritten(with_column(table, "token_id", table["token_id"].combine_chunks().take(list(range(ROWS))[::-1]))))
    [problem] = verify_store(place)
    assert "000000.arrow cannot be trusted, its column token_id is not what plan and sequences say" in problem
    values = np.array(table["activation"].combine_chunks().flatten()) + np.float16(0.5)
    replace_shard(
        place, rewritten(with_column(table, "activation", pa.FixedSizeListArray.from_arrays(pa.array(values), type=table["activation"].type)))
    )
    [problem] = verify_store(place)
    assert "000000.arrow cannot be trusted, its rows do not add up to its receipt's sums" in problem


# Manifest, plan and receipts


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(value, path, leaf):
    """A copy with another value at a path."""
    if not path:
        return leaf
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], leaf)
    return copy


def test_every_field_of_manifest_plan_and_receipt_is_covered_by_a_digest(place):
    readers = {"manifest.json": read_manifest, PLAN_KEY: read_plan, receipt_key(HOOKPOINT, 1): verify_store}
    for key, read in readers.items():
        whole = place.get_json(key)
        for path in leaves(whole):
            before = whole
            for step in path:
                before = before[step]
            other = before + 1 if isinstance(before, int | float) else f"{before}x"
            place.put_json(key, changed(whole, path, other))
            found = outcome(lambda read=read: read(place))
            if isinstance(found, str):
                assert "LINE BREAK" not in found
            else:
                assert read is verify_store, path
                assert [problem for problem in found if key in problem], path
        place.put_json(key, whole)
    assert verify_store(place) == []


LIES = {
    "an entry less": lambda manifest: manifest["shards"][HOOKPOINT].pop(),
    "an entry more": lambda manifest: manifest["shards"][HOOKPOINT].append({**manifest["shards"][HOOKPOINT][0], "sha256": "a", "tokens_sha256": "b"}),
    "a shard twice": lambda manifest: manifest["shards"][HOOKPOINT].__setitem__(1, manifest["shards"][HOOKPOINT][0]),
    "no hookpoint": lambda manifest: manifest["shards"].clear(),
    "another width": lambda manifest: manifest["plan"]["hookpoints"].update({HOOKPOINT: 16}),
    "another precision": lambda manifest: manifest["plan"].update(dtype="float32"),
    "more sequences": lambda manifest: manifest["plan"].update(num_sequences=10**15),
    "longer sequences": lambda manifest: manifest["plan"].update(context_length=16),
    "endless sequences": lambda manifest: manifest["plan"].update(context_length=2**62),
    "a special token that is none": lambda manifest: manifest["plan"].update(special_token_ids=[2**40]),
    "more rows": lambda manifest: manifest["shards"][HOOKPOINT][0].update(rows=10**9),
    "fewer rows": lambda manifest: manifest["shards"][HOOKPOINT][0].update(rows=27),
    "more bytes": lambda manifest: manifest["shards"][HOOKPOINT][0].update(bytes=2**50),
    "a mean of another width": lambda manifest: manifest["statistics"][HOOKPOINT]["mean"].pop(),
    "fewer positions": lambda manifest: manifest["statistics"][HOOKPOINT]["position_rows"].pop(),
    "statistics of other rows": lambda manifest: manifest["statistics"][HOOKPOINT].update(rows=85),
    "a negative variance": lambda manifest: manifest["statistics"][HOOKPOINT].update(variance=-1.0),
    "a hookpoint that leads elsewhere": lambda manifest: [
        manifest[part].update({"../../x": manifest[part].pop(HOOKPOINT)}) for part in ("shards", "statistics")
    ] + [manifest["plan"].update(hookpoints={"../../x": D_IN})],
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_whose_numbers_do_not_fit_is_refused_although_its_digest_is_right(place, lie):
    change_manifest(place, LIES[lie])
    with pytest.raises(CorruptObjectError, match=r"^\S+ cannot be trusted, .*: (delete|choose) ") as error:
        all_rows(place)
    assert len(str(error.value)) < 400
    assert verify_store(place)
    assert isinstance(outcome(lambda: show_store(place)), str)


@pytest.mark.parametrize("field", ["sum", "position_rows", "position_sum_norm"])
def test_a_receipt_whose_sums_have_another_width_is_one_line_before_the_store_is_finished(place, field):
    plan = read_plan(place)
    place.delete("manifest.json")
    receipt = place.get_sealed(receipt_key(HOOKPOINT, 1))
    place.put_sealed(receipt_key(HOOKPOINT, 1), receipt | {field: receipt[field][1:]})
    for read in (lambda: finish_store(place, plan), lambda: show_store(place)):
        with pytest.raises(CorruptObjectError, match=r"000001\.json cannot be trusted, its sums are over "):
            read()


def test_statistics_that_are_not_those_of_the_shards_are_named_by_verification(place):
    change_manifest(place, lambda manifest: manifest["statistics"][HOOKPOINT].update(variance=1.0))
    [problem] = verify_store(place)
    assert "manifest.json cannot be trusted, its statistics of" in problem


def test_a_store_without_its_plan_gets_the_manifests_when_it_is_harvested_again(place):
    before = read_plan(place)
    place.delete(PLAN_KEY)
    with pytest.raises(CorruptObjectError, match="plan.json does not exist"):
        Store(place)
    moved = before.model_copy(update={"subject": "elsewhere"})
    finish_store(place, moved)
    assert Store(place).plan == before, "the name that the manifest knows"


def test_the_hookpoints_of_a_store_have_the_same_rows(tmp_path):
    place = Place(tmp_path)
    write_small_store(place, hookpoints=(HOOKPOINT, OTHER))
    assert verify_store(place) == []
    change_manifest(place, lambda manifest: manifest["shards"][OTHER][1].update(tokens_sha256="0" * 64))
    with pytest.raises(CorruptObjectError, match="its hookpoints have other rows or sequences in the same shard"):
        Store(place)


def test_a_plan_of_more_shards_than_anyone_can_list_is_refused_before_it_is_written(tmp_path):
    place = Place(tmp_path / "store")
    plan = read_plan(write_small_store(Place(tmp_path / "small")).place)
    with pytest.raises(MonosemError, match="25,000,000,000,000 shards, expected at most 10,000,000"):
        start_store(place, plan.model_copy(update={"num_sequences": 10**14}))
    assert not place.exists(PLAN_KEY)


@pytest.mark.fuzz
@given(st.data())
def test_any_change_of_any_object_is_refused_or_gives_the_same_rows(tmp_path_factory, data):
    place = _fuzzed(tmp_path_factory)
    key = data.draw(st.sampled_from(["manifest.json", PLAN_KEY, "tokens/000001.arrow", shard_key(HOOKPOINT, 1), receipt_key(HOOKPOINT, 1)]))
    whole = place.get(key)
    at = data.draw(st.integers(0, len(whole) - 1))
    by = data.draw(st.binary(max_size=9))
    try:
        place.put(key, whole[:at] + by + whole[at + data.draw(st.sampled_from([0, 1, len(by), 100, len(whole)])) :])
        if place.get(key) == whole:
            return
        same = json.dumps(outcome(lambda: place.get_json(key)))  # white space
        found = outcome(lambda: verify_store(place))
        assert found or same == json.dumps(json.loads(whole))
        assert "LINE BREAK" not in str(found)
        assert isinstance(outcome(lambda: show_store(place)), str)
        rows = outcome(lambda: all_rows(place))
        assert "LINE BREAK" not in rows if isinstance(rows, str) else torch.equal(rows, _FUZZED[1])
    finally:
        place.put(key, whole)


_FUZZED: list = []


def _fuzzed(factory) -> Place:
    if not _FUZZED:
        place = Place(factory.mktemp("fuzzed"))
        write_small_store(place)
        _FUZZED.extend((place, all_rows(place)))
    return _FUZZED[0]
