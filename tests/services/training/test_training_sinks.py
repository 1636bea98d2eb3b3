"""Live curves in TensorBoard and Weights & Biases: what goes in comes out of those tools' own readers."""

import builtins
import importlib
import json
import struct
import sys

import pytest

from sae.errors import InputError
from sae.storage import Place
from services.training.sinks import TensorBoardSink, check_sinks, open_sinks, scalars

ROW = {
    "step": 20,
    "vectors": 40_960,
    "losses": {"total": 3.5, "reconstruction": 3.0},
    "fvu": 0.25,
    "l0": 31.5,
    "density_quantiles": {"0.5": 1e-3},
    "density_histogram": {"counts": [1, 2]},
    "learning_rate": 1e-3,
    "unknown": None,
}
EVENT = {"event": "resampled", "step": 40, "vectors": 81_920, "dead": 12, "resampled": 12}


def test_a_row_becomes_named_numbers():
    assert dict(scalars(ROW)) == {
        "losses/total": 3.5, "losses/reconstruction": 3.0, "fvu": 0.25, "l0": 31.5, "density_quantiles/0.5": 1e-3, "learning_rate": 1e-3,
    }  # fmt: skip
    assert dict(scalars(EVENT)) == {"resampled/dead": 12.0, "resampled/resampled": 12.0}


class TestTensorBoard:
    @pytest.fixture
    def read(self, tmp_path):
        """What TensorBoard's own reader finds: tag -> [(step, value)]."""
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

        def find(dictionary):
            found = accumulators.EventAccumulator(str(tmp_path / dictionary)).Reload()
            return {tag: [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}

        return find

    def test_its_own_reader_finds_every_number_at_its_step(self, tmp_path, read):
        sink = TensorBoardSink(Place(tmp_path))
        sink.record("topk", ROW)
        sink.record("topk", ROW | {"step": 40, "fvu": 0.125})
        sink.record("topk", EVENT)
        sink.record("relu", ROW)
        sink.close()
        found = read("topk")
        assert found["fvu"] == [(20, 0.25), (40, 0.125)]
        assert found["losses/total"] == [(20, 3.5), (40, 3.5)]
        assert found["resampled/resampled"] == [(40, 12.0)]
        assert read("relu")["l0"] == [(20, 31.5)]

    def test_the_first_row_can_be_seen_at_once(self, tmp_path, read):
        TensorBoardSink(Place(tmp_path)).record("topk", ROW)
        assert read("topk")["fvu"] == [(20, 0.25)]

    def test_steps_that_are_done_again_after_a_resumption_count_once(self, tmp_path, read):
        before = TensorBoardSink(Place(tmp_path))
        for step in (20, 40, 60):
            before.record("topk", ROW | {"step": step, "fvu": 0.9})
        before.close()
        after = TensorBoardSink(Place(tmp_path))
        for step in (40, 60):
            after.record("topk", ROW | {"step": step, "fvu": 0.1})
        after.close()
        assert read("topk")["fvu"] == [(20, 0.9), (40, 0.1), (60, 0.1)]

    def test_an_object_store_serves_as_well_as_a_disk_after_a_resumption_too(self, bucket, tmp_path, read):
        for steps, fvu in (((20, 40, 60), 0.9), ((40, 60), 0.1)):  # the second process knows nothing of the first
            sink = TensorBoardSink(Place(f"{bucket}/tensorboard"))
            for step in steps:
                sink.record("topk", ROW | {"step": step, "fvu": fvu})
            sink.close()
        place = Place(f"{bucket}/tensorboard")
        assert place.list() == [f"topk/events.out.tfevents.{step:010d}.monosem" for step in (20, 40)]
        for key in place.list():
            Place(tmp_path).put(key, place.get(key))
        assert read("topk")["fvu"] == [(20, 0.9), (40, 0.1), (60, 0.1)]


class TestWeightsAndBiases:
    def test_a_run_kept_offline_holds_every_row(self, tmp_path, monkeypatch):
        wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'monosem[wandb]'")
        monkeypatch.setenv("WANDB_MODE", "offline")
        (sink,) = open_sinks(("wandb",), Place(tmp_path))
        sink.record("topk", ROW)
        sink.record("topk", EVENT)
        sink.close()
        wandb.teardown()
        (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        rows = history(file)
        assert rows[0]["fvu"] == 0.25
        assert rows[0]["losses/total"] == 3.5
        assert (rows[1]["step"], rows[1]["resampled/resampled"]) == (40, 12.0)

    def test_without_a_key_it_says_so_before_training(self, tmp_path, monkeypatch):
        pytest.importorskip("wandb")
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(InputError, match="there is no WANDB_API_KEY: set it, run `wandb login`, or set WANDB_MODE=offline"):
            check_sinks(("wandb",), Place(tmp_path))

    def test_offline_runs_need_a_disk(self, monkeypatch):
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
        with pytest.raises(InputError, match="keeps runs on a disk"):
            check_sinks(("wandb",), Place("memory://run"))


def history(file):
    """The rows of a `.wandb` file: protobuf records in the log format of LevelDB, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    rows, data, place, pending = [], file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:  # no record begins so near a block's end
            place += 32_768 - place % 32_768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        pending += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            pending = b""
            if record.WhichOneof("record_type") == "history":
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return rows


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tool_that_is_not_installed_names_its_extra(name, tmp_path, monkeypatch):
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda module: real(f"absent_{module}"))
    with pytest.raises(InputError, match=rf"pip install 'monosem\[{name}\]'"):
        check_sinks((name,), Place(tmp_path))
