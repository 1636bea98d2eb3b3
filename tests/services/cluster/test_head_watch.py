"""When the cluster's head counts as gone: a function of looks and times, so no cluster is needed."""

import pytest

from services.cluster.head_watch import HeadWatch, Look, patience_seconds


def verdicts(looks, patience=40.0, step=3.0):
    judge = HeadWatch(patience, 0.0)
    return [judge.verdict(look, (number + 1) * step) for number, look in enumerate(looks)]


def test_a_head_that_answers_is_never_given_up():
    assert verdicts([Look.WELL] * 1000) == [None] * 1000


def test_a_head_that_stays_silent_is_named_before_ray_ends_the_process_itself():
    found = verdicts([Look.WELL, *[Look.SILENT] * 20])
    first = next(number for number, each in enumerate(found) if each)
    assert 40 <= (first + 1) * 3.0 - 3.0 < 60 - 6
    assert "head (GCS) has not answered" in found[first]


def test_silence_that_ends_is_forgotten():
    assert verdicts([*[Look.SILENT] * 12, Look.WELL, *[Look.SILENT] * 12]) == [None] * 25


def test_a_driver_that_was_stopped_does_not_take_its_own_pause_for_the_heads():
    judge = HeadWatch(40.0, 0.0)
    judge.verdict(Look.WELL, 3.0)
    assert judge.verdict(Look.SILENT, 500.0) is None
    assert judge.verdict(Look.WELL, 503.0) is None


def test_the_loss_of_the_own_node_is_named_at_once():
    assert "counts this machine's node as dead" in verdicts([Look.NODE_LOST])[0]


@pytest.mark.parametrize(("ray_waits", "patience"), [(None, 40.0), ("600", 580.0), ("5", 10.0)])
def test_the_patience_follows_rays(ray_waits, patience, monkeypatch):
    monkeypatch.delenv("RAY_gcs_rpc_server_reconnect_timeout_s", raising=False)
    if ray_waits is not None:
        monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", ray_waits)
    assert patience_seconds() == patience
