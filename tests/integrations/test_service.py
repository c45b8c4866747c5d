"""The loopback service does what it says."""

import socket
import time
from typing import Any

import anyio
import httpx2
import pytest

from tests.integrations.service import Service


async def test_it_answers_and_tells_what_came_in(service: Service) -> None:
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client:
            response = await client.post(f"{service.url}/a?b=c", content=b"body", headers={"X-Mine": "1"})
    assert (response.status_code, response.text) == (200, "ok")
    [(method, path, headers)] = service.requests
    assert (method, path, headers["x-mine"]) == ("POST", "/a", "1")
    assert service.bodies == [b"body"]


async def test_errors_and_redirects(service: Service) -> None:
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client:
            service.behave("error", status=502, headers={"Retry-After": "7"})
            response = await client.get(service.url)
            service.behave("redirect", to="/there")
            redirect = await client.get(service.url)
    assert (response.status_code, response.headers["retry-after"]) == (502, "7")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "/there")


async def test_it_hangs(service: Service) -> None:
    service.behave("hang")
    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=0.1) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.post(service.url, content=b"body")
    assert len(service.requests) == 1


async def test_it_is_slow(service: Service) -> None:
    service.behave("slow", seconds=0.15)
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client:
            with anyio.move_on_after(0.01):
                await client.get(service.url)
                pytest.fail("that was not slow")
            response = await client.get(service.url)
    assert response.status_code == 200


async def test_it_dies_half_way(service: Service) -> None:
    service.behave("die")
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client, client.stream("GET", service.url) as response:
            assert response.status_code == 200
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()


async def test_it_refuses_and_accepts_on_the_same_port(service: Service) -> None:
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client:
            for _ in range(20):
                assert (await client.get(service.url)).status_code == 200
                service.close_port()
                with pytest.raises(httpx2.ConnectError):
                    await client.get(service.url)
                service.open_port()
    assert len(service.requests) == 20


async def test_its_apps_run_on_asyncio_whoever_asks(service: Service) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.Lock().acquire()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    service.behave("app", app=app)
    service.close_port()
    service.open_port()
    with anyio.fail_after(20):
        async with httpx2.AsyncClient() as client:
            assert (await client.get(service.url)).status_code == 204


async def test_it_opens_and_closes_twice_without_harm(service: Service) -> None:
    service.open_port()
    service.close_port()
    service.close_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port), 10)


def test_hanging_requests_do_not_keep_it_from_stopping() -> None:
    with Service() as service:
        service.behave("hang")
        left = socket.create_connection(("127.0.0.1", service.port), 10)
        left.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        while not service.requests:
            time.sleep(0.001)
    with left:
        assert left.recv(1) == b"", "the connection has ended"
