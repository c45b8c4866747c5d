"""The stairs: imports go down, never up, never across; the core is pure; nobody inside imports the front door."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "aiobreaker"

FLOORS = [
    ["core"],
    ["errors", "locking", "begun"],
    ["loops"],
    ["events"],
    ["hub", "settings", "fallbacks", "lint", "deadlines", "budget", "attempts"],
    ["lines", "policy", "flights"],
    ["ledger"],
    ["gate"],
    ["waiting"],
    ["streams"],
    ["guards"],
    ["breaker"],
    ["policies"],
    ["registry", "testing", "presets", "demo"],
    ["http", "journal", "observed", "refusals"],
    ["integrations", "telemetry"],
    ["__init__", "__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
CORE_ORDER = ["checks", "windows", "slots", "schedules", "outcomes", "conditions", "tallies", "eras", "transitions"]
CORE_ORDER += ["control", "circuit", "budgets", "backoff", "quantiles", "limits", "throttling", "rates", "entries"]
IMPURE = {"anyio", "asyncio", "trio", "time", "datetime", "random", "logging", "threading", "os"}
THIRD_PARTY = {"anyio"}
ROOMS_OF_SIBLINGS = ["policies", "integrations", "telemetry"]
IMPORT_NAMES = {"prometheus": "prometheus_client"}
"""Of libraries that are not imported by the name under which they are known."""

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, as a dotted path; True if it is one of ours (then from the package's root)."""
    here = ("aiobreaker", *path.with_suffix("").parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name.startswith("aiobreaker")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[1 : -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((".".join([*base, str(name)]), True) for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module), str(node.module).startswith("aiobreaker")


def room(dotted: str) -> str:
    return dotted.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down_the_stairs(path: Path) -> None:
    mine = room(".".join(path.with_suffix("").parts))
    assert mine in LEVEL, f"{path} stands on no floor"
    for module, ours in imports(path):
        if not ours:
            continue
        assert module not in {"aiobreaker", "__init__"}, f"{path} imports the front door"
        if room(module) != mine:
            assert LEVEL[room(module)] < LEVEL[mine], f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ROOMS_OF_SIBLINGS], ids=str)
def test_siblings_do_not_know_one_another(path: Path) -> None:
    siblings = {module for module, ours in imports(path) if ours and room(module) == path.parts[0]}
    assert siblings <= {"policies.events"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "core"], ids=str)
def test_the_core_is_pure(path: Path) -> None:
    used = {room(module) for module, ours in imports(path) if not ours}
    assert not used & IMPURE
    tree = ast.walk(ast.parse((PACKAGE / path).read_text()))
    assert not [node for node in tree if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    inner = [module.split(".")[1] for module, ours in imports(path) if ours and module.count(".")]
    if path.stem in CORE_ORDER:
        assert all(CORE_ORDER.index(other) < CORE_ORDER.index(path.stem) for other in inner)


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] != "demo"], ids=str)
def test_anyio_is_the_only_dependency_but_of_what_is_plugged_in(path: Path) -> None:
    outside = {room(module) for module, ours in imports(path) if not ours} - set(sys.stdlib_module_names)
    own = {IMPORT_NAMES.get(path.stem, path.stem)} if path.parts[0] in {"integrations", "telemetry"} else set[str]()
    assert outside <= THIRD_PARTY | own


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_room_says_what_it_holds_and_stays_small(path: Path) -> None:
    text = (PACKAGE / path).read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 450
