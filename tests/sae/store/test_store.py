"""The data contract: what is written can be read, is a function of the plan alone, and damage does not go unnoticed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash

from sae.errors import ConfigError, CorruptObjectError, HookpointError, InputError, PlanError
from sae.storage import Place, sha256_hex
from sae.store import verification
from sae.store.manifest import StorePlan, finish_store, missing_shards, read_manifest, read_plan, receipt_key, shard_key, start_store
from sae.store.reader import Store
from sae.store.schema import RECORD_BATCH_ROWS
from sae.store.verification import verify_store
from sae.store.writer import selected_tokens, write_shard

MLP, RESID = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
SPECIAL = 0
CONTEXT_LENGTH = 8


def make_plan(**changes) -> StorePlan:
    settings = dict(
        subject="planted", subject_digest="s", corpus_digest="c", context_length=CONTEXT_LENGTH, hookpoints={MLP: 6, RESID: 3}, dtype="float16",
        num_sequences=10, sequences_per_shard=4, tokens_per_sequence=None, special_token_ids=[SPECIAL], seed=5,
    )  # fmt: skip
    return StorePlan(**{**settings, **changes})


def corpus_tokens(plan: StorePlan) -> np.ndarray:
    """Tokens 1, 2, 3, ... after a special one, and another special one (a document's end) at position 5 of odd sequences."""
    tokens = np.arange(1, plan.num_sequences * plan.context_length + 1, dtype=np.uint32).reshape(plan.num_sequences, -1)
    tokens[:, 0] = SPECIAL
    tokens[1::2, 5] = SPECIAL
    return tokens


def activation_of(tokens: np.ndarray, d_in: int) -> torch.Tensor:
    """An activation from which its token can be read back: [token, token + 1, ...] / 8."""
    return (torch.from_numpy(tokens.astype(np.float32))[..., None] + torch.arange(d_in)) / 8


def write(place: Place, plan: StorePlan, shards=None) -> None:
    tokens = corpus_tokens(plan)
    start_store(place, plan)
    for shard in range(plan.num_shards) if shards is None else shards:
        first, last = plan.shard_range(shard)
        part = tokens[first:last]
        write_shard(place, plan, shard, part, {name: activation_of(part, d_in) for name, d_in in plan.hookpoints.items()})


def finished(place: Place, plan: StorePlan) -> Store:
    write(place, plan)
    finish_store(place, plan)
    return Store(place)


def all_rows(store: Store, hookpoint: str) -> np.ndarray:
    return np.concatenate([store.rows(hookpoint, shard, 0, rows) for shard, rows in enumerate(store.shard_rows(hookpoint))])


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "store")


# What is in a store


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_every_token_that_is_not_special_is_stored_once_with_its_activation(place, dtype):
    plan = make_plan(dtype=dtype)
    store = finished(place, plan)
    tokens = corpus_tokens(plan)
    for hookpoint, d_in in plan.hookpoints.items():
        seen = set()
        for shard in range(plan.num_shards):
            table = store.table(hookpoint, shard)
            where = list(zip(table["sequence_id"].to_pylist(), table["position"].to_pylist(), strict=True))
            assert table["token_id"].to_pylist() == [tokens[sequence, position] for sequence, position in where]
            assert {sequence for sequence, _ in where} == set(range(*plan.shard_range(shard)))
            expected = activation_of(np.array([tokens[at] for at in where]), d_in).to(getattr(torch, dtype)).float().numpy()
            np.testing.assert_array_equal(store.rows(hookpoint, shard, 0, table.num_rows).astype(np.float32), expected)
            seen |= set(where)
        assert seen == {(int(s), int(p)) for s, p in np.argwhere(tokens != SPECIAL)}
        assert store.num_rows(hookpoint) == len(seen)


def test_bfloat16_is_stored_as_its_bits_and_named(place):
    store = finished(place, make_plan(dtype="bfloat16"))
    field = store.table(MLP, 0).schema.field("activation")
    assert field.type.value_type == pa.uint16()
    assert field.metadata == {b"dtype": b"bfloat16"}
    token = store.table(MLP, 0)["token_id"][0].as_py()
    bits = torch.tensor(token / 8).to(torch.bfloat16).view(torch.int16).item()
    assert store.table(MLP, 0)["activation"][0].as_py()[0] == bits


def test_rows_are_shuffled_and_alike_at_every_hookpoint(place):
    store = finished(place, make_plan())
    mlp, resid = store.table(MLP, 0), store.table(RESID, 0)
    where = [(s.as_py(), p.as_py()) for s, p in zip(mlp["sequence_id"], mlp["position"], strict=True)]
    assert where != sorted(where)
    assert mlp.select([0, 1, 2]).equals(resid.select([0, 1, 2]))
    other = finished(place.child("other"), make_plan(seed=6)).table(MLP, 0)
    assert not mlp["token_id"].equals(other["token_id"])
    assert sorted(mlp["token_id"].to_pylist()) == sorted(other["token_id"].to_pylist())


def test_the_sequences_themselves_are_kept(place):
    plan = make_plan()
    store = finished(place, plan)
    tokens = np.concatenate([store.sequence_tokens(shard) for shard in range(plan.num_shards)])
    np.testing.assert_array_equal(tokens, corpus_tokens(plan))


def test_statistics_are_those_of_the_stored_rows(place):
    store = finished(place, make_plan())
    x = all_rows(store, MLP).astype(np.float64)
    found = store.statistics(MLP)
    assert found.rows == len(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    assert found.mean_squared_norm == pytest.approx((x**2).sum(axis=1).mean(), rel=1e-12)
    assert found.mean_norm == pytest.approx(np.linalg.norm(x, axis=1).mean(), rel=1e-12)
    assert found.variance == pytest.approx(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean(), rel=1e-9)
    norms, positions = np.linalg.norm(x, axis=1), np.concatenate([store.table(MLP, shard)["position"].to_numpy() for shard in range(3)])
    assert found.position_rows == [int((positions == at).sum()) for at in range(CONTEXT_LENGTH)]
    expected = [norms[positions == at].mean() if (positions == at).any() else 0.0 for at in range(CONTEXT_LENGTH)]
    np.testing.assert_allclose(found.position_mean_norm, expected, rtol=1e-12)


def test_a_receipt_holds_both_digests_of_its_object(place):
    store = finished(place, make_plan())
    data = place.get(shard_key(MLP, 1))
    entry = store.manifest.shards[MLP][1]
    assert (entry.bytes, entry.sha256, entry.checksum) == (len(data), sha256_hex(data), xxhash.xxh3_128_hexdigest(data))


def test_a_plans_digest_names_the_store_before_it_is_finished():
    assert make_plan().digest == make_plan(subject="elsewhere").digest
    others = [make_plan(seed=6), make_plan(sequences_per_forward=31), make_plan(compression="zstd")]
    assert len({make_plan().digest, *(plan.digest for plan in others)}) == 4


def test_a_slice_that_crosses_record_batches_is_whole(place):
    sequences = 2 * RECORD_BATCH_ROWS // CONTEXT_LENGTH + 1
    plan = make_plan(hookpoints={RESID: 3}, num_sequences=sequences, sequences_per_shard=sequences, special_token_ids=[], dtype="float32")
    store = finished(place, plan)
    rows = store.num_rows(RESID)
    table = store.table(RESID, 0)
    assert [len(chunk) for chunk in table["activation"].chunks] == [RECORD_BATCH_ROWS, RECORD_BATCH_ROWS, rows - 2 * RECORD_BATCH_ROWS]
    start, stop = RECORD_BATCH_ROWS - 3, 2 * RECORD_BATCH_ROWS + 2
    expected = np.array(table["activation"].slice(start, stop - start).to_pylist(), np.float32)
    np.testing.assert_array_equal(store.rows(RESID, 0, start, stop), expected)
    view = store.rows(RESID, 0, 5, 9)
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert store.rows(RESID, 0, 7, 7).shape == (0, 3)


# Which tokens are drawn


def test_drawn_tokens_are_distinct_never_special_and_as_many_as_asked(place):
    plan = make_plan(tokens_per_sequence=6)
    tokens = corpus_tokens(plan)[:4]
    flat = selected_tokens(plan, 0, tokens)
    assert len(set(flat)) == len(flat)
    assert not (tokens.reshape(-1)[flat] == SPECIAL).any()
    # An even sequence has 7 tokens to draw from, an odd one 6.
    assert np.bincount(flat // CONTEXT_LENGTH).tolist() == [6, 6, 6, 6]
    assert np.bincount(selected_tokens(make_plan(tokens_per_sequence=7), 0, tokens) // CONTEXT_LENGTH).tolist() == [7, 6, 7, 6]


def test_every_position_is_drawn_equally_often():
    plan = make_plan(tokens_per_sequence=2, num_sequences=8000, sequences_per_shard=8000)
    tokens = np.tile(np.array([SPECIAL, 1, 2, 3, SPECIAL, 4, 5, 6], np.uint32), (8000, 1))
    counts = np.bincount(selected_tokens(plan, 0, tokens) % CONTEXT_LENGTH, minlength=CONTEXT_LENGTH)
    assert counts[[0, 4]].tolist() == [0, 0]
    expected = 8000 * 2 / 6
    chi_squared = ((counts[[1, 2, 3, 5, 6, 7]] - expected) ** 2 / expected).sum()
    assert chi_squared < 20.5  # the 99.9 % point at 5 degrees of freedom


def test_shards_draw_independently():
    plan = make_plan(tokens_per_sequence=3, num_sequences=200, sequences_per_shard=100)
    tokens = np.ones((100, CONTEXT_LENGTH), np.uint32)
    assert sorted(selected_tokens(plan, 0, tokens)) != sorted(selected_tokens(plan, 1, tokens))


# The same bytes, however it was made


def test_order_of_work_and_interruption_leave_no_trace(place):
    plan = make_plan()
    straight, crooked = place.child("straight"), place.child("crooked")
    write(straight, plan)
    one = finish_store(straight, plan)
    write(crooked, plan, shards=[2])
    assert missing_shards(crooked, plan) == [0, 1]
    crooked.delete(receipt_key(RESID, 2))  # killed between a shard and its receipt
    assert missing_shards(crooked, plan) == [0, 1, 2]
    write(crooked, plan, shards=[1, 2])
    write(crooked, plan, shards=[0, 1, 2])
    two = finish_store(crooked, plan)
    assert one == two
    assert straight.list() == crooked.list()
    assert [straight.get(key) for key in straight.list()] == [crooked.get(key) for key in crooked.list()]


def test_a_shard_with_a_receipt_is_never_rewritten(place, tmp_path):
    plan = make_plan()
    write(place, plan, shards=[0])
    before = (tmp_path / "store" / shard_key(MLP, 0)).stat().st_ino
    tokens = corpus_tokens(plan)[:4]
    again = write_shard(place, plan, 0, tokens, {name: activation_of(tokens, d_in) for name, d_in in plan.hookpoints.items()})
    assert again.written_bytes == 0
    assert again.rows == 2 * (4 * 7 - 2)
    assert (tmp_path / "store" / shard_key(MLP, 0)).stat().st_ino == before


def test_every_change_of_the_plan_changes_the_digest_but_the_subjects_name_does_not(place):
    digests = [finished(place.child(str(n)), plan).manifest.digest for n, plan in enumerate([
        make_plan(), make_plan(seed=6), make_plan(dtype="float32"), make_plan(corpus_digest="other"), make_plan(tokens_per_sequence=3),
    ])]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert finished(place.child("moved"), make_plan(subject="elsewhere")).manifest.digest == digests[0]


def test_the_bytes_are_those_of_schema_3(place):
    # If this changes (a new pyarrow may lay a file out otherwise), unfinished stores of older releases cannot be continued to the same bytes.
    assert finished(place, make_plan(tokens_per_sequence=3)).manifest.digest == "caf7ace284dfeddcfd4d2646fc5be7e6a1adcd8fac32a475543a67039749827d"


# What goes wrong


def test_of_plans_that_come_at_the_same_time_one_wins_and_the_others_are_told(tmp_path):
    def start(seed):
        try:
            return start_store(Place(tmp_path / "store"), make_plan(seed=seed)) or seed
        except PlanError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(start, range(1, 9)))
    [winner] = [seed for seed in found if isinstance(seed, int)]
    assert read_plan(Place(tmp_path / "store")).seed == winner
    assert all(f"seed (there {winner}, now " in message for message in found if message != winner)


def test_another_plan_is_an_error_that_names_the_differing_field(place):
    start_store(place, make_plan())
    start_store(place, make_plan(subject="elsewhere"))
    with pytest.raises(PlanError, match=r"another plan: dtype \(there 'float16', now 'float32'\); seed \(there 5, now 6\)\. Choose"):
        start_store(place, make_plan(dtype="float32", seed=6))


@pytest.mark.parametrize(
    ("version", "message"),
    [(4, "a newer version: it has schema 4, this one knows 3; read it with that"), (2, "an older version: .*harvest again, into another place")],
)
def test_a_store_of_another_release_is_refused(place, version, message):
    finished(place, make_plan())
    plan, manifest = place.get_json("plan.json"), place.get_json("manifest.json")
    plan["schema_version"] = manifest["plan"]["schema_version"] = version
    place.put_json("plan.json", plan)
    with pytest.raises(InputError, match=rf"plan\.json was written by {message}"):
        start_store(place, make_plan())
    place.put_json("manifest.json", manifest)
    with pytest.raises(InputError, match=rf"manifest\.json was written by {message}"):
        read_manifest(place)


def test_an_unfinished_store_is_not_read(place):
    with pytest.raises(InputError, match="no store"):
        Store(place)
    write(place, make_plan(), shards=[0, 2])
    with pytest.raises(InputError, match="lacks 1 of 3 shards, the first is 1"):
        finish_store(place, make_plan())
    with pytest.raises(InputError, match="unfinished store"):
        Store(place)


@pytest.mark.parametrize("value", [65536.0, -70000.0, float("inf"), float("nan")])
def test_an_activation_beyond_float16_is_an_error_not_infinity(place, value):
    plan = make_plan(hookpoints={MLP: 6})
    tokens = corpus_tokens(plan)[:4]
    activations = activation_of(tokens, 6)
    activations[2, 3, 4] = value
    with pytest.raises(ConfigError, match=r"activations at blocks\.0\.mlp\.hook_post reach .*, expected at most 65504"):
        write_shard(place, plan, 0, tokens, {MLP: activations})
    assert not place.list("shards")
    if abs(value) < float("inf"):
        wide = make_plan(hookpoints={MLP: 6}, dtype="bfloat16")
        write_shard(place, wide, 0, tokens, {MLP: activations})


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def footer_valid_but_short(data: bytes) -> bytes:
    """What an exception inside `with ipc.new_file(...)` leaves: a file that opens, with fewer batches."""
    table = pa.ipc.open_file(data).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.slice(0, table.num_rows - 1))
    assert pa.ipc.open_file(sink.getvalue()).read_all().num_rows == table.num_rows - 1
    return sink.getvalue().to_pybytes()


def one_bit_flipped(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("damage", [cut_short, footer_valid_but_short, one_bit_flipped, lambda data: b"", None])
def test_a_damaged_shard_is_named_with_what_to_do_and_can_be_mended(place, damage):
    plan = make_plan()
    digest = finished(place, plan).manifest.digest
    key = shard_key(MLP, 1)
    if damage:
        place.put(key, damage(place.get(key)))
    else:
        place.delete(key)
    store = Store(place)
    assert store.rows(MLP, 0, 0, 1).shape == (1, 6)
    message = rf"shards/{MLP}/000001\.arrow cannot be trusted, .*: delete receipts/{MLP}/000001\.json and manifest\.json and run the harvest again"
    with pytest.raises(CorruptObjectError, match=message):
        store.rows(MLP, 1, 0, 1)
    assert len(verify_store(place)) == 1
    for name in (receipt_key(MLP, 1), "manifest.json"):
        place.delete(name)
    mended = finished(place, plan)
    assert verify_store(place) == []
    assert mended.manifest.digest == digest


def test_a_short_shard_is_noticed_even_where_size_and_digest_agree(place):
    plan = make_plan(hookpoints={MLP: 6})
    write(place, plan)
    data = footer_valid_but_short(place.get(shard_key(MLP, 1)))
    place.put(shard_key(MLP, 1), data)
    receipt = place.get_sealed(receipt_key(MLP, 1))
    place.put_sealed(receipt_key(MLP, 1), {**receipt, "bytes": len(data), "sha256": sha256_hex(data), "checksum": xxhash.xxh3_128_hexdigest(data)})
    finish_store(place, plan)
    with pytest.raises(CorruptObjectError, match=f"it has {receipt['rows'] - 1} rows, its receipt says {receipt['rows']}"):
        Store(place).table(MLP, 1)


def test_damaged_sequences_are_noticed(place):
    store = finished(place, make_plan())
    place.put("tokens/000000.arrow", one_bit_flipped(place.get("tokens/000000.arrow")))
    with pytest.raises(CorruptObjectError, match=r"tokens/000000\.arrow cannot be trusted"):
        store.sequence_tokens(0)


@pytest.mark.parametrize("at_once", [1, 2, 512])
def test_verification_reads_receipts_a_block_at_a_time_and_names_each_that_is_not_whole(place, monkeypatch, at_once):
    monkeypatch.setattr(verification, "RECEIPTS_AT_ONCE", at_once)
    finished(place, make_plan())
    assert verify_store(place) == []
    keys = [receipt_key(MLP, shard) for shard in range(3)]
    place.put_sealed(keys[0], place.get_sealed(keys[0]) | {"sum": [0.0]})
    place.put_json(keys[1], place.get_json(keys[1]) | {"sum": [0.0] * 6})
    place.put_json(keys[2], {"rows": 3})
    first, second, third = verify_store(place)
    remedy = "delete it and run the harvest again"
    assert first == f"{place.path(keys[0])} cannot be trusted, its sums are over (1, 8, 8) elements, expected (6, 8, 8): {remedy}"
    assert second == f"{place.path(keys[1])} cannot be trusted, it was changed after it was written: {remedy}"
    assert third.startswith(f"{place.path(keys[2])} cannot be trusted, ")
    for key in keys:
        place.put(key, b"")
    assert len(verify_store(place)) == len(keys)


def test_an_unknown_hookpoint_lists_those_that_are_there(place):
    with pytest.raises(HookpointError, match=f"no hookpoint 'blocks.1' but {RESID}, {MLP}"):
        finished(place, make_plan()).num_rows("blocks.1")


def test_activations_of_another_shape_are_refused(place):
    plan = make_plan(hookpoints={MLP: 6})
    tokens = corpus_tokens(plan)
    with pytest.raises(InputError, match=r"tokens of shape \(3, 8\), expected \(4, 8\)"):
        write_shard(place, plan, 0, tokens[:3], {MLP: activation_of(tokens[:3], 6)})
    with pytest.raises(InputError, match=r"activations of shape \(4, 8, 5\) at blocks\.0\.mlp\.hook_post, expected \(4, 8, 6\)"):
        write_shard(place, plan, 0, tokens[:4], {MLP: activation_of(tokens[:4], 5)})


def test_a_corpus_of_special_tokens_alone_is_an_error(place):
    plan = make_plan(hookpoints={MLP: 6}, special_token_ids=list(range(100)))
    write(place, plan)
    with pytest.raises(InputError, match="every token is a special one"):
        finish_store(place, plan)
