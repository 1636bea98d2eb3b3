"""What a training left is what it wrote, or it is refused: result, logs, plan, search and states."""

import json

import pytest
import torch
from altered import GONE, alterations, raw_alterations, read, sealed_again
from safetensors.torch import load, save
from stores import HOOKPOINT, planted_activations, planted_directions, write_store

from sae.checkpoint import DIGEST_LENGTH
from sae.errors import CorruptObjectError, InputError, MonosemError, PlanError
from sae.parallel.workers import ALONE
from sae.storage import Place, sha256_hex
from sae.tensor_files import read_header
from sae.training.config import DictionaryConfig, TargetL0Config, TrainingConfig
from sae.training.engine import train
from sae.training.records import read_events, read_log, read_result
from sae.training.target_l0 import search_coefficient

CONFIG = TrainingConfig.parse(
    {
        "dictionaries": [{"name": "relu", "sae": {"architecture": "relu", "d_sae": 32}, "resampling": {"num_inputs": 64}}],
        "batch_size": 128, "log_every": 3, "checkpoint_seconds": 0, "dead_window_vectors": 256,
    }
)  # fmt: skip


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(Place(tmp_path_factory.mktemp("store")), planted_activations(1024, planted_directions(24, 16)))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    output = Place(tmp_path_factory.mktemp("trained"))
    train(store, HOOKPOINT, CONFIG, output)
    return output


@pytest.fixture
def output(trained, tmp_path):
    copy = Place(tmp_path / "copy")
    for key in trained.list():
        copy.put(key, trained.get(key))
    return copy


def refused(call, *arguments):
    with pytest.raises(MonosemError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def test_a_finished_dictionary_whose_weights_changed_is_not_taken_as_finished(store, output):
    assert train(store, HOOKPOINT, CONFIG, output)["relu"]["steps"] == 8
    weights = bytearray(output.get("relu/weights.safetensors"))
    weights[-3] ^= 1
    output.put("relu/weights.safetensors", bytes(weights))
    assert "another digest than config.json promises" in refused(train, store, HOOKPOINT, CONFIG, output)


def test_a_finished_training_is_proved_and_left_alone(store, output):
    before = {key: output.get(key) for key in output.list()}
    assert train(store, HOOKPOINT, CONFIG, output)["relu"]["steps"] == 8
    assert {key: output.get(key) for key in output.list()} == before


@pytest.mark.parametrize("key", ["result.json", "plan.json", "config.json"])
def test_no_field_changes_unnoticed(store, output, key):
    place = output.child("relu")
    whole, value = place.get(key), read(place, key)
    for number, (path, altered) in enumerate(alterations(value, others=(GONE, None, 7, "x"))):
        place.put_json(key, altered)
        said = refused(read_result, place) if key != "plan.json" else refused(place.get_sealed, key)
        assert key in said or path == "format_version"
        if number % 40 == 0:
            refused(train, store, HOOKPOINT, CONFIG, output)
    for text in raw_alterations(whole):
        place.put(key, text.encode())
        refused(train, store, HOOKPOINT, CONFIG, output)


def test_a_result_of_other_fields_is_refused_even_with_a_new_digest(output):
    """Another number or text in the place of one cannot be known to be wrong; a field that is gone or of another kind can."""
    place = output.child("relu")
    value = read(place, "result.json")
    free = ("versions/", "final/losses/", "final/density_quantiles/", "final/density_histogram/counts/")
    for path, altered in alterations(value, others=(GONE, [], {"x": None}, True, "-1", None, float(10**20))):
        if (
            path in ("digest", "target_hookpoint", "target_l0")
            or (path, at(altered, path)) == ("final/fvu", None)
            or (path.startswith(free) and at(altered, path) is GONE)
            or kind(at(value, path)) == kind(at(altered, path))
        ):
            continue
        sealed_again(place, "result.json", altered)
        assert "result.json" in refused(read_result, place), path


def test_numbers_that_cannot_be_are_refused_even_with_a_new_digest(output):
    place = output.child("relu")
    value = read(place, "result.json")
    numbers = ("d_in", "d_sae", "steps", "vectors", "dead_fraction", "dead_window_vectors", "wall_seconds", "seed", "context_length")
    for name in numbers:
        sealed_again(place, "result.json", value | {name: -1})
        assert name in refused(read_result, place)


def at(value, path):
    for part in path.split("/"):
        value = value.get(part, GONE) if isinstance(value, dict) else value[int(part)] if int(part) < len(value) else GONE
    return value


def kind(value):
    return float if isinstance(value, int) and value is not True else type(value)


def test_a_result_in_another_directory_is_refused(store, output):
    for key in output.list("relu"):
        output.put(key.replace("relu/", "other/"), output.get(key))
    place = output.child("other")
    sealed_again(place, "plan.json", read(place, "plan.json") | {"dictionary": {**read(place, "plan.json")["dictionary"], "name": "other"}})
    config = CONFIG.model_copy(update={"dictionaries": [CONFIG.dictionaries[0].model_copy(update={"name": "other"})]})
    assert "is of 'relu', and its place is that of 'other'" in refused(train, store, HOOKPOINT, config, output)


@pytest.mark.parametrize("key", ["training.jsonl", "events.jsonl", "weights.safetensors"])
def test_what_lies_with_a_result_is_covered_by_it(store, output, key):
    data = output.get(f"relu/{key}")
    for changed in (data[:-1], data + b"\n", b""):
        output.put(f"relu/{key}", changed)
        with pytest.raises(CorruptObjectError, match=key):
            train(store, HOOKPOINT, CONFIG, output)
    output.delete(f"relu/{key}")
    with pytest.raises(CorruptObjectError, match=key):
        train(store, HOOKPOINT, CONFIG, output)


def test_rows_of_logs_are_checked(output):
    place = output.child("relu")
    assert [row["step"] for row in read_log(place)] == [3, 6, 8]
    assert {event["event"] for event in read_events(place)} <= {"resampled", "after_resampling"}
    row = json.loads(place.get("training.jsonl").splitlines()[0])
    for path, altered in alterations(row, others=(GONE, "x", True, -100.0)):
        if not path.startswith(("losses/", "density_quantiles/", "density_histogram/")):
            place.put("training.jsonl", (json.dumps(row) + "\n" + json.dumps(altered) + "\n").encode())
            assert "training.jsonl, row 2" in refused(read_log, place), path
    place.put("events.jsonl", b'{"event": "unheard-of"}\n')
    assert "events.jsonl, row 1" in refused(read_events, place)


def test_a_search_is_proved(tmp_path):
    place = Place(tmp_path)
    dictionary = DictionaryConfig.parse({"name": "relu", "sae": {"architecture": "relu"}})

    def pilots(dictionaries, directory, steps):
        return {each.name: [{"step": 25, "l0": 0.4 / each.sae.l1_coefficient, "window_vectors": 1}] for each in dictionaries}

    def search():
        return search_coefficient(place, {"dictionary": "relu"}, dictionary, TargetL0Config(l0=30.0, tolerance=0.25), 100, pilots, ALONE)

    search()
    value = read(place, "search.json")
    for _, altered in alterations(value, others=(GONE, "x", 0.5)):
        place.put_json("search.json", altered)
        refused(search)
    for path, altered in alterations(value, others=(GONE, "x", None)):
        if path != "digest" and not path.removeprefix("rounds/").replace("/", "").isdigit():  # there may be any number of rounds and pilots
            sealed_again(place, "search.json", altered)
            refused(search)


@pytest.fixture
def interrupted(store, tmp_path):
    output = Place(tmp_path / "interrupted")

    def progress(done, total):
        if done == 5 * CONFIG.batch_size:
            raise KilledError

    with pytest.raises(KilledError):
        train(store, HOOKPOINT, CONFIG, output, progress=progress)
    return output


def put_state(output, tensors=None, step=None, named_step=None, **values):
    """Write the newest state anew with other tensors or values, and a name that fits its content."""
    place = output.child("state", "relu")
    key = place.list()[-1]
    data = place.get(key)
    metadata = read_header(data, key)[1]
    inner = json.loads(metadata["values"])
    inner = {name: value for name, value in (inner | values).items() if value is not GONE}
    new = save(load(data) if tensors is None else tensors(load(data)), metadata={"step": step or metadata["step"], "values": json.dumps(inner)})
    place.delete(key)
    place.put(f"step-{named_step or int(metadata['step']):010d}-{sha256_hex(new)[:DIGEST_LENGTH]}.safetensors", new)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "x"}, "rows"), ({"rows": [{"step": 1}]}, r"rows\.0\.vectors is missing"), ({"events": [{}]}, "events"),
        ({"window": GONE}, "window is missing"), ({"seconds": -1}, "seconds"), ({"first_fvu": "0"}, "first_fvu"), ({"plan": None}, "plan"),
        ({"more": 1}, "more is unknown"), ({"step": "5"}, "saved after step 5, and its name says 4"),
        ({"named_step": 7}, "saved after step 4, and its name says 7"),
        ({"tensors": without("weights.b_enc")}, "'weights.b_enc' .*is missing"),
        ({"tensors": lambda found: found | {"exp_avg.W_enc": torch.zeros(16, 31)}}, r"'exp_avg.W_enc' is float32 \[16, 31\], expected .* \[16, 32\]"),
        ({"tensors": lambda found: found | {"more": torch.zeros(1)}}, "'more' .*is unknown"),
        ({"tensors": lambda found: found | {"weights.b_dec": torch.full((16,), float("nan"))}}, "'weights.b_dec' holds values from nan"),
    ],
)  # fmt: skip
def test_a_state_of_something_else_is_refused_even_with_a_fitting_name(store, interrupted, change, message):
    put_state(interrupted, **change)
    with pytest.raises(InputError, match=message) as error:
        train(store, HOOKPOINT, CONFIG, interrupted)
    assert "\n" not in str(error.value)


def test_a_state_of_another_plan_is_refused(store, interrupted):
    plan = interrupted.child("relu").get_sealed("plan.json")
    put_state(interrupted, plan=plan | {"seed": 9})
    with pytest.raises(PlanError, match="seed = 9, expected 0"):
        train(store, HOOKPOINT, CONFIG, interrupted)
