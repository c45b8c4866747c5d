"""The command line. It imports without any extra; each command says which one it lacks."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from .demo.plot import DEFAULT_DURATION, LEAST_DURATION

_DEMO_NEEDS = ("httpx2", "rich", "starlette", "trio", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The answer is the exit status: 0, 1 for a failure, 2 for a wrong call, 128 + n for signal n."""
    parser = argparse.ArgumentParser(prog="aiobreaker", description="A circuit breaker for asyncio and trio.")
    parser.add_argument("--version", action="version", version=f"aiobreaker {version('aiobreaker')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    words = "Start a real HTTP service, break it in four ways under guarded traffic, and watch the breaker."
    _add_demo(commands.add_parser("demo", help="watch a breaker at work", description=words))
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    return status


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="the event loop (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=1, metavar="N", help="for the traffic's randomness (default: %(default)s)")
    about = f"how long it takes, about (default: %(default)g, at least {LEAST_DURATION:g})"
    demo.add_argument("--duration", type=float, default=DEFAULT_DURATION, metavar="SECONDS", help=about)
    output = demo.add_mutually_exclusive_group()
    output.add_argument("--plain", action="store_true", help="plain lines, as when the output is no terminal")
    output.add_argument("--json", action="store_true", help="nothing but one JSON object, at the end")
    demo.set_defaults(run=_demo, parser=demo)


def _demo(options: argparse.Namespace) -> int:
    missing = [name for name in _DEMO_NEEDS if find_spec(name) is None]
    if missing:
        parser: argparse.ArgumentParser = options.parser
        needs = f"the demo needs {', '.join(missing)}"
        parser.exit(2, f'{needs}, which come with the extra aiobreaker[demo] (in a checkout: pip install ".[demo]")\n')
    from .demo.show import show

    return show(options)


if __name__ == "__main__":
    sys.exit(main())
