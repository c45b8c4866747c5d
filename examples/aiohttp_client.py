# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[aiohttp]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""An aiohttp session that calls a service through a circuit breaker, while the service breaks and comes back."""

import asyncio

import aiohttp
from aiohttp import web

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, StateChanged
from aiobreaker.integrations.aiohttp import BreakerMiddleware

breakers = BreakerRegistry[str](lambda origin: CircuitBreaker(origin, trip=ConsecutiveFailures(3), open_for=0.3))


class Service:
    """A service on loopback that does as it is told, and counts."""

    def __init__(self) -> None:
        self.mood = "well"
        self.requests = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.requests += 1
        if self.mood == "down":
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse()
        response.content_length = 10
        await response.prepare(request)
        await response.write(b"half ")
        if self.mood == "dying":
            response.force_close()
        else:
            await response.write(b"whole")
        return response

    async def start(self) -> tuple[web.AppRunner, str]:
        """Start it; the answer is what to clean up, and where it is."""
        app = web.Application()
        app.router.add_get("/", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def call(session: aiohttp.ClientSession, url: str) -> str:
    """Call the service once, and say how it went."""
    try:
        async with session.get(url) as response:
            return f"{response.status}, {await response.text()!r}"
    except CircuitOpenError as refusal:
        return f"refused: {refusal.reason}; again in {refusal.retry_after:.1f} s"
    except aiohttp.ClientError as error:
        return f"failed: {type(error).__name__}"


async def main() -> None:
    """Three moods of a service, and what its caller sees."""
    service = Service()
    runner, url = await service.start()
    breakers.subscribe(
        lambda event: print(f"    {event.new.value}: {event.reason}") if isinstance(event, StateChanged) else None
    )
    async with aiohttp.ClientSession(middlewares=(BreakerMiddleware(registry=breakers),)) as session:
        for mood, calls in (("well", 2), ("down", 5), ("well", 2), ("dying", 5), ("well", 2)):
            service.mood = mood
            print(f"the service is {mood}")
            if breakers[url].snapshot().retry_after is not None:
                await asyncio.sleep(0.3)
            for _ in range(calls):
                print(await call(session, f"{url}/"))
    await runner.cleanup()
    totals = breakers[url].snapshot().totals
    print(f"{service.requests} requests reached the service, {totals.refused} were refused")


if __name__ == "__main__":
    asyncio.run(main())
