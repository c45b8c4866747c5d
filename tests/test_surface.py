"""The public face: what the front door shows is what is listed, sorted, documented, and says that it comes from there."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import aiobreaker
import aiobreaker.testing


def test_the_front_door_shows_exactly_what_it_lists() -> None:
    assert aiobreaker.__all__ == sorted(aiobreaker.__all__)
    for name in aiobreaker.__all__:
        getattr(aiobreaker, name)  # some are loaded now
    shown = {name for name, value in vars(aiobreaker).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert shown == set(aiobreaker.__all__) <= set(dir(aiobreaker))
    with pytest.raises(AttributeError, match="has no attribute 'Circuit'"):
        aiobreaker.Circuit  # noqa: B018


def test_type_checkers_see_what_is_loaded_later() -> None:
    source = Path(aiobreaker.__file__).read_text()
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == aiobreaker._LATER


def test_policies_are_not_loaded_before_they_are_asked_for() -> None:
    code = "import sys, aiobreaker; print([name for name in sys.modules if name.startswith('aiobreaker.policies')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_everything_public_is_documented() -> None:
    for name in aiobreaker.__all__:
        thing = getattr(aiobreaker, name)
        assert inspect.getdoc(thing), name
        for member, value in vars(thing).items():
            if inspect.isfunction(value) and not member.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_the_testing_kit_shows_exactly_what_it_lists() -> None:
    assert aiobreaker.testing.__all__ == sorted(aiobreaker.testing.__all__)
