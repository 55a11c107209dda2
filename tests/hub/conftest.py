"""The tests' Hub, and two clients that live through all tests: with Xet and without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.client import Client
from tests.hub.server import Hub


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="session")
def clients(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """Clients by their way to upload large files: `xet` and `lfs`."""
    started = {
        name: Client(hub, tmp_path_factory.mktemp(name) / "home", xet=name == "xet")
        for name in ("xet", "lfs")
    }
    yield started
    for client in started.values():
        client.close()


@pytest.fixture(params=["xet", "lfs"])
def client(request: pytest.FixtureRequest, clients: dict[str, Client], hub: Hub) -> Iterator[Client]:
    yield clients[request.param]
    hub.heal()


@pytest.fixture
def xet_client(clients: dict[str, Client], hub: Hub) -> Iterator[Client]:
    yield clients["xet"]
    hub.heal()


@pytest.fixture
def lfs_client(clients: dict[str, Client], hub: Hub) -> Iterator[Client]:
    yield clients["lfs"]
    hub.heal()
