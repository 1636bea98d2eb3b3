"""The embedded corpus is exactly the locked text of the pinned dependencies."""

import hashlib
import importlib.metadata
import itertools
import json

import pytest

from sae.corpus.dependencies import LOCK_PATH, dependency_documents, is_pure
from sae.errors import InputError

LOCK = json.loads(LOCK_PATH.read_text())


def lock_of(tmp_path, **changes):
    locked = {"jinja2": LOCK["jinja2"] | changes}
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(locked))
    return path


def test_every_locked_distribution_is_installed_as_locked_and_the_same_on_every_platform():
    for name, locked in LOCK.items():
        distribution = importlib.metadata.distribution(name)
        assert distribution.version == locked["version"]
        assert is_pure(distribution), name


def test_torch_is_left_out():
    assert "torch" not in LOCK


def test_documents_come_in_the_order_of_their_digests_and_hash_to_them():
    digests = [hashlib.sha256(text.encode()).hexdigest() for _, text in itertools.islice(dependency_documents(), 300)]
    assert digests == sorted(digests)


def test_documents_of_one_distribution_are_its_sources_metadata_and_licence(tmp_path):
    names = [name for name, _ in dependency_documents(lock_of(tmp_path))]
    assert len(names) == LOCK["jinja2"]["files"]
    assert "jinja2/environment.py" in names
    assert any(name.endswith("METADATA") for name in names)
    assert any("LICENSE" in name for name in names)
    assert not any(name.endswith(("RECORD", "INSTALLER", ".pyc")) for name in names)


@pytest.mark.parametrize("change", [{"version": "0.0"}, {"sha256": "0" * 64}, {"files": 1}])
def test_another_version_or_another_file_set_is_an_error_that_says_what_to_do(tmp_path, change):
    with pytest.raises(InputError, match="the corpus needs jinja2.*constraints.txt"):
        list(dependency_documents(lock_of(tmp_path, **change)))


def test_a_missing_distribution_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"no-such-package": LOCK["jinja2"]}))
    with pytest.raises(InputError, match="no-such-package.*make install"):
        list(dependency_documents(path))
