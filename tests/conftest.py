"""Every async test runs under asyncio and trio, in virtual time: sleeping takes none."""

from collections.abc import Callable

import anyio
import pytest
import trio.testing

from aiobreaker.testing import VirtualTimeLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualTimeLoop}
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def clock() -> Callable[[], float]:
    """The virtual clock of the running event loop."""
    return anyio.current_time
