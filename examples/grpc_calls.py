# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker[grpc]"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A gRPC server whose database fails, and a client whose circuit opens for as long as the server asks."""

import asyncio
from collections.abc import AsyncGenerator

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures
from aiobreaker.integrations.grpc import RefusalInterceptor, breaker_interceptors

database = CircuitBreaker("the server's database", trip=ConsecutiveFailures(2), open_for=0.5)
stock = CircuitBreaker("the client's stock service", trip=ConsecutiveFailures(5))
down = False


@database
async def lookup(sku: bytes) -> bytes:
    """Ask the database."""
    if down:
        raise ConnectionError("the database is gone")
    return b"3 of " + sku


async def count(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """A unary RPC."""
    return await lookup(request)


async def count_all(request: bytes, context: grpc.aio.ServicerContext) -> AsyncGenerator[bytes]:
    """An RPC that streams."""
    for sku in request.split():
        yield await lookup(sku)


async def serve() -> tuple[grpc.aio.Server, int]:
    """Start the server on a free port."""
    server = grpc.aio.server(interceptors=[RefusalInterceptor()])
    methods = {
        "Count": grpc.unary_unary_rpc_method_handler(count),
        "CountAll": grpc.unary_stream_rpc_method_handler(count_all),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def main() -> None:
    """Twelve calls; the database is down for four of them."""
    global down  # noqa: PLW0603 - the example's switch
    server, port = await serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=breaker_interceptors(stock)) as channel:
        ask = channel.unary_unary("/shop.Stock/Count")
        for number in range(12):
            down = 2 <= number < 6
            try:
                print(f"call {number}:", (await ask(b"pears", timeout=1)).decode())
            except grpc.aio.AioRpcError as error:
                print(f"call {number}:", error.code().name, dict(error.trailing_metadata()))
            except CircuitOpenError as refusal:
                print(f"call {number}: {refusal}")
                await asyncio.sleep(refusal.retry_after or 0.1)
        async for answer in channel.unary_stream("/shop.Stock/CountAll")(b"pears plums figs"):
            print("streamed:", answer.decode())
    await server.stop(None)
    for breaker in (stock, database):
        print(breaker.explain())
        print(breaker.snapshot().totals)


if __name__ == "__main__":
    asyncio.run(main())
