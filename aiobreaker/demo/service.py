"""The payment service: a Starlette app under uvicorn, run as a process of its own by `python -m aiobreaker.demo.service`.

Orders come in on stdin, one a line: the name of a fault, or an empty line for none. The end of stdin ends the process, so that
it never outlives the demo. On stdout it writes its port, and the number of every payment at the moment it arrives.
"""

import argparse
import os
import random
import threading

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .plot import Fault


class Payments:
    """The app, and what ails it."""

    def __init__(self, seed: int) -> None:
        self.fault = ""
        self._random = random.Random(seed)
        routes = [Route("/health", self.health), Route("/payments/{number:int}", self.pay, methods=["PUT"])]
        self.app = Starlette(routes=routes)

    async def health(self, request: Request) -> Response:
        """Whether it is there at all."""
        return Response(status_code=204)

    async def pay(self, request: Request) -> Response:
        """Take one payment, as well as the fault allows."""
        number = request.path_params["number"]
        _report("payment", number)
        order = await request.json()
        if self.fault == Fault.ERRORS:
            return JSONResponse({"error": "the ledger is away"}, status_code=500)
        if self.fault == Fault.HANGING:
            await _until_the_caller_gives_up(request)
        await anyio.sleep(self._random.uniform(0.45, 0.65) if self.fault == Fault.SLOW else self._random.uniform(0.005, 0.03))
        return JSONResponse({"payment": number, "amount": order["amount"], "status": "paid"})


async def _until_the_caller_gives_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _report(what: str, number: int) -> None:
    os.write(1, f"{what} {number}\n".encode())  # unbuffered: a kill must not lose it


def _take_orders(payments: Payments, server: uvicorn.Server) -> None:
    with open(0, "rb", buffering=0) as orders:
        for order in orders:
            payments.fault = order.decode().strip()
    server.should_exit = server.force_exit = True


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="aiobreaker.demo.service", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes any that is free")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    payments = Payments(arguments.seed)
    config = uvicorn.Config(payments.app, port=arguments.port, lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    _report("port", socket.getsockname()[1])
    threading.Thread(target=_take_orders, args=(payments, server), daemon=True).start()
    server.run(sockets=[socket])


if __name__ == "__main__":
    main()
