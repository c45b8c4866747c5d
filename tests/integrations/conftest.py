"""Every async test of the integrations runs under asyncio and trio, in real time: real sockets wait for no virtual clock."""

from collections.abc import Iterator

import pytest

from tests.integrations.service import Service


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def _service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """The loopback service, as new for every test."""
    _service.reset()
    yield _service
    _service.reset()
