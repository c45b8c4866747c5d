"""The fixtures of this folder."""

import pytest

from aiobreaker.registry import _Entry

from .stage import Factory


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one for every breaker that is looked at because it might go."""
    looked: list[object] = []

    def may_go(entry: _Entry[object]) -> bool:
        looked.append(entry.key)
        return bool(original(entry))

    original = vars(_Entry)["may_go"].fget
    monkeypatch.setattr(_Entry, "may_go", property(may_go))
    return looked
