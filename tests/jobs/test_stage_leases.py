"""Two commands never work at the same stage of one run: the second is told who does."""

import pytest

import jobs.run
from jobs.config import RunConfig
from sae.errors import LeaseError
from sae.storage import Place
from sae.storage.lease import hold_lease
from tests.sessions import HERE


@pytest.fixture
def done(monkeypatch):
    """The stages that were worked at; none of them needs a cluster."""
    worked = []
    monkeypatch.setattr(jobs.run, "STAGES", {name: lambda config, session, name=name: worked.append(name) for name in ("train", "evaluate")})
    return worked


def test_a_stage_that_another_command_works_at_is_refused_with_its_holder(tmp_path, done):
    config = RunConfig(output=str(tmp_path))
    with (
        hold_lease(Place(tmp_path).child("leases", "train")),
        pytest.raises(LeaseError, match=r"leases/train is being filled by another run, process \d+"),
    ):
        jobs.run._run_stage(config, "train", HERE, 0.0)
    assert done == []


def test_other_stages_of_the_run_go_on_and_leave_no_lease(tmp_path, done):
    config = RunConfig(output=str(tmp_path))
    with hold_lease(Place(tmp_path).child("leases", "train")):
        jobs.run._run_stage(config, "evaluate", HERE, 0.0)
    jobs.run._run_stage(config, "train", HERE, 0.0)
    assert done == ["evaluate", "train"]
    assert Place(tmp_path).list("leases") == []


def test_a_stage_that_fails_leaves_no_lease(tmp_path, monkeypatch, done):
    def fails(config, session):
        raise ZeroDivisionError

    monkeypatch.setattr(jobs.run, "STAGES", {"train": fails})
    with pytest.raises(ZeroDivisionError):
        jobs.run._run_stage(RunConfig(output=str(tmp_path)), "train", HERE, 0.0)
    assert Place(tmp_path).list("leases") == []
