"""Object stores as fixtures: the servers live as long as the session, every test gets a bucket of its own."""

import os
import uuid
from collections.abc import Iterator

import pytest
import s3fs

from sae.storage.s3 import session
from tests.servers.object_servers import SWIFT_PYTHON, ObjectServer, moto_server, swift_server


def pytest_addoption(parser) -> None:
    """`make chaos` gives more rounds."""
    parser.addoption("--chaos-rounds", type=int, default=1, help="how often each disaster of tests/chaos strikes (default 1)")


@pytest.fixture(scope="session")
def swift(tmp_path_factory) -> Iterator[ObjectServer]:
    """OpenStack Swift behind its S3 API."""
    if not SWIFT_PYTHON.exists():
        pytest.skip("no .venv-swift: `make swift` makes it")
    with swift_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory) -> Iterator[ObjectServer]:
    """moto's S3."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def swift_bucket(swift, monkeypatch) -> Iterator[str]:
    """`s3://BUCKET` on Swift, and the environment to reach it; processes that the test starts inherit it."""
    yield from new_bucket(swift, monkeypatch)


@pytest.fixture(params=["swift", "moto"])
def bucket(request, monkeypatch) -> Iterator[str]:
    """`s3://BUCKET` on each of the servers in turn."""
    yield from new_bucket(request.getfixturevalue(request.param), monkeypatch)


@pytest.fixture(params=["local", "swift", "moto"])
def place_url(request, tmp_path, monkeypatch) -> Iterator[str]:
    """A URL to write below, on the local disk and on each of the servers in turn."""
    if request.param == "local":
        yield str(tmp_path / "place")
    else:
        for url in new_bucket(request.getfixturevalue(request.param), monkeypatch):
            yield f"{url}/place"


def new_bucket(server: ObjectServer, monkeypatch) -> Iterator[str]:
    """A fresh bucket, and an environment in which every client finds the server and nothing of the user's own configuration."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_clients()
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(session=session()).mkdir(name)
    try:
        yield f"s3://{name}"
    finally:
        forget_clients()


def forget_clients() -> None:
    """Make the next client read its environment anew: they are kept by their arguments alone."""
    s3fs.S3FileSystem.clear_instance_cache()
    session.cache_clear()
