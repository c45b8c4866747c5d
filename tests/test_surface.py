"""The public face: what the front door shows is what is listed, sorted, documented, and says that it comes from there."""

import inspect

import aiobreaker
import aiobreaker.testing


def test_the_front_door_shows_exactly_what_it_lists() -> None:
    assert aiobreaker.__all__ == sorted(aiobreaker.__all__)
    shown = {name for name, value in vars(aiobreaker).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert shown == set(aiobreaker.__all__)


def test_everything_public_is_documented() -> None:
    for name in aiobreaker.__all__:
        thing = getattr(aiobreaker, name)
        assert inspect.getdoc(thing), name
        for member, value in vars(thing).items():
            if inspect.isfunction(value) and not member.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_the_testing_kit_shows_exactly_what_it_lists() -> None:
    assert aiobreaker.testing.__all__ == sorted(aiobreaker.testing.__all__)
