"""FastAPI hands named breakers and pipelines to routes, and lets tests put others in their place."""

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI

from aiobreaker import BreakerRegistry, Bulkhead, CircuitBreaker, Pipeline, Policy, State
from aiobreaker.integrations.asgi import RefusalMiddleware
from aiobreaker.integrations.fastapi import PolicyDependency
from aiobreaker.testing import ManualClock

from .service import Service


def registry() -> BreakerRegistry[str]:
    return BreakerRegistry(lambda name: CircuitBreaker(name, open_for=10, clock=ManualClock()))


async def charge() -> str:
    return "charged"


async def get(service: Service, app: FastAPI, *paths: str) -> list[httpx2.Response]:
    service.behave("app", app=app)
    with anyio.fail_after(20):
        async with httpx2.AsyncClient(base_url=service.url, trust_env=False) as client:
            return [await client.get(path) for path in paths]


async def test_a_route_gets_the_named_breaker(service: Service) -> None:
    breakers, app = registry(), FastAPI()
    app.add_middleware(RefusalMiddleware)

    @app.get("/pay")
    async def pay(payments: Annotated[CircuitBreaker, Depends(PolicyDependency(breakers, "payments"))]) -> str:
        return await payments.call(charge)

    @app.get("/mail")
    async def mail(mail: Annotated[CircuitBreaker, Depends(PolicyDependency(breakers, "mail"))]) -> str:
        return mail.name

    assert list(breakers) == []
    assert [response.json() for response in await get(service, app, "/pay", "/mail", "/pay")] == ["charged", "mail", "charged"]
    assert list(breakers) == ["mail", "payments"]  # to be asked for is to be in use
    assert breakers["payments"].snapshot().totals.successes == 2
    breakers["payments"].open()
    [refused] = await get(service, app, "/pay")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")


async def test_a_route_gets_the_named_pipeline(service: Service) -> None:
    breaker = CircuitBreaker("payments")
    pipelines = {"payments": breaker | Bulkhead(5)}
    app = FastAPI()

    @app.get("/pay")
    async def pay(payments: Annotated[Pipeline[Any], Depends(PolicyDependency(pipelines, "payments"))]) -> str:
        assert payments is pipelines["payments"]
        return await payments.call(charge)

    [response] = await get(service, app, "/pay")
    assert response.json() == "charged"
    assert breaker.snapshot().totals.successes == 1


async def test_tests_can_put_another_in_its_place(service: Service) -> None:
    breakers, app = registry(), FastAPI()

    @app.get("/pay")
    async def pay(payments: Annotated[CircuitBreaker, Depends(PolicyDependency(breakers, "payments"))]) -> str:
        return payments.name

    app.dependency_overrides[PolicyDependency(breakers, "payments")] = lambda: CircuitBreaker("another")
    app.dependency_overrides[PolicyDependency(breakers, "mail")] = lambda: CircuitBreaker("wrong")
    [response] = await get(service, app, "/pay")
    assert response.json() == "another"
    app.dependency_overrides.clear()
    [response] = await get(service, app, "/pay")
    assert response.json() == "payments"


async def test_it_is_asked_in_the_event_loop_and_once_in_a_request(service: Service) -> None:
    threads: list[int] = []

    class Noting(OrderedDict[str, Policy[Any]]):
        def __getitem__(self, key: str) -> Policy[Any]:
            threads.append(threading.get_ident())
            return super().__getitem__(key)

    policies = Noting(payments=CircuitBreaker("payments"))
    app = FastAPI()

    @app.get("/pay")
    async def pay(
        one: Annotated[Policy[Any], Depends(PolicyDependency(policies, "payments"))],
        two: Annotated[Policy[Any], Depends(PolicyDependency(policies, "payments"))],
    ) -> bool:
        threads.append(threading.get_ident())
        return one is two

    threads.clear()
    [response] = await get(service, app, "/pay")
    assert response.json() is True
    assert len(threads) == 2
    assert threads[0] == threads[1] != threading.get_ident()


async def test_it_is_no_part_of_the_documented_interface() -> None:
    app = FastAPI()

    @app.get("/pay")
    async def pay(payments: Annotated[CircuitBreaker, Depends(PolicyDependency(registry(), "payments"))]) -> str:
        return payments.name

    assert "parameters" not in app.openapi()["paths"]["/pay"]["get"]


async def test_without_fastapi_it_is_a_function() -> None:
    breakers = registry()
    payments = await PolicyDependency(breakers, "payments")()
    assert payments is breakers["payments"]
    assert payments.state is State.CLOSED


def test_equal_are_those_of_the_same_source_and_key() -> None:
    breakers, others = registry(), registry()
    dependency = PolicyDependency(breakers, "payments")
    assert dependency == PolicyDependency(breakers, "payments")
    assert hash(dependency) == hash(PolicyDependency(breakers, "payments"))
    assert dependency != PolicyDependency(breakers, "mail")
    assert dependency != PolicyDependency(others, "payments")
    assert dependency != "payments"
    assert repr(dependency) == "PolicyDependency(<BreakerRegistry of 0 breakers, at most 1024>, 'payments')"


@pytest.mark.parametrize(
    ("source", "key", "error", "words"),
    [
        (None, "payments", TypeError, "source must be a BreakerRegistry or a mapping of names to policies, not None"),
        ({"mail": Bulkhead(1)}, "payments", ValueError, "key must be one of 'mail', not 'payments'"),
        ({"payments": 7}, "payments", TypeError, "source must be a mapping of names to policies, not one with 7"),
        (registry(), ["payments"], TypeError, r"key must be hashable, as a name is, not \['payments'\]"),
    ],
    ids=["no source", "no such key", "no policy", "no key"],
)
def test_what_cannot_be_is_told_at_once(source: Any, key: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PolicyDependency(source, key)


EXAMPLES = re.findall(
    r"^```python\n(.*?)^```",
    (Path(__file__).parents[2] / "docs" / "integrations" / "fastapi.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


async def test_the_examples_of_the_page_do_what_they_say(service: Service) -> None:
    assert len(EXAMPLES) == 2
    names: dict[str, Any] = {"__name__": __name__}
    exec(EXAMPLES[0], names)
    stock, health = await get(service, names["app"], "/stock/pear", "/health/")
    assert (stock.json(), health.json()["status"]) == (7, "ok")
    names["breakers"]["stock"].open()
    stock, health = await get(service, names["app"], "/stock/pear", "/health/")
    assert (stock.status_code, stock.headers["retry-after"], health.json()["status"]) == (503, "10", "degraded")
    exec(EXAMPLES[1], names)
    [state] = await get(service, names["app"], "/state")
    assert state.json() == "forced_open"
