"""The documents cannot go stale: examples run, the settings table is the signature, the state diagram is the machine."""

import inspect
import random
import re
import time
from pathlib import Path

import pytest

from aiobreaker import CircuitBreaker, ConsecutiveFailures

from .state_diagram import PAGE, page

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("guide.md", "toolkit.md")}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(code: str, backend: str, names: dict[str, object]) -> None:
    exec(compile(code.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"), "example", "exec"), names)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_quick_start_does_what_it_says(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(blocks(README)[0], backend, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[:7] == ["failed: the payment service is down"] * 5 + ["refused, try again in 30 s"] * 2
    assert printed[7].startswith("payments is open for")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", range(1, len(blocks(README))))
def test_the_readmes_other_examples_run(number: int, backend: str) -> None:
    run(blocks(README)[number], backend, {})


@pytest.mark.parametrize("guide", PAGES)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_guides_examples_run(guide: str, backend: str) -> None:
    beginning, *examples = blocks(PAGES[guide])
    assert len(examples) >= 4
    for example in examples:
        names: dict[str, object] = {}
        exec(beginning, names)
        run(example, backend, names)


def test_the_settings_table_is_the_signature() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", README, re.MULTILINE))
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(CircuitBreaker).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert list(rows) == list(defaults)
    known = {"time": time, "random": random, "ConsecutiveFailures": ConsecutiveFailures}
    for name, default in defaults.items():
        assert eval(rows[name], known) == default


def test_the_state_diagram_is_the_machine() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.state_diagram"


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_gives_exactly_two_commands() -> None:
    assert re.findall(r"^pip install uv && .*$", README, re.MULTILINE) == [
        "pip install uv && uv run aiobreaker demo",
        "pip install uv && uv run pytest",
    ]
