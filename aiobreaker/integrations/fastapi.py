"""For FastAPI: a dependency that hands a named breaker, or pipeline, to a route.

Law: where the breakers are kept is the application's affair: in a registry or mapping of its own, handed over explicitly.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from ..policy import Policy
from ..registry import BreakerRegistry

__all__ = ["PolicyDependency"]

K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)
K = TypeVar("K", bound=Hashable)
P_co = TypeVar("P_co", bound=Policy[Any], covariant=True)


class Source(Protocol[K_contra, P_co]):
    """Where policies are kept by name: a `BreakerRegistry`, or a mapping."""

    def __getitem__(self, key: K_contra, /) -> P_co: ...


class PolicyDependency(Generic[P_co]):
    """Hands a route the breaker or pipeline of this name.

        breakers = BreakerRegistry(lambda name: CircuitBreaker(name, open_for=10))
        Payments = Annotated[CircuitBreaker, Depends(PolicyDependency(breakers, "payments"))]

        @app.post("/orders")
        async def order(payments: Payments) -> str:
            return await payments.call(charge)

    It is asked at every request: a registry knows by that that the breaker is in use, and one that had gone is made again. It
    does not leave the event loop for it. Two of the same source and key are equal: either serves in `app.dependency_overrides`.

    Args:
        source: a registry of breakers, or a mapping of names to policies.
        key: the name in it.

    Raises:
        TypeError, ValueError: there is no such source, or a mapping has no policy of that name.
    """

    def __init__(self, source: Source[K, P_co], key: K) -> None:
        _check(source, key)
        self._source: Source[Any, P_co] = source
        self._key = key

    async def __call__(self) -> P_co:
        """The breaker or pipeline."""
        return self._source[self._key]

    def __repr__(self) -> str:
        return f"PolicyDependency({self._source!r}, {self._key!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyDependency):
            return NotImplemented
        return self._source is other._source and self._key == other._key

    def __hash__(self) -> int:
        return hash((id(self._source), self._key))


def _check(source: object, key: object) -> None:
    if not isinstance(key, Hashable):
        raise TypeError(f"key must be hashable, as a name is, not {key!r}")
    if isinstance(source, BreakerRegistry):
        return
    if not isinstance(source, Mapping):
        raise TypeError(f"source must be a BreakerRegistry or a mapping of names to policies, not {source!r}")
    if key not in source:
        raise ValueError(f"key must be one of {', '.join(map(repr, source))}, not {key!r}")
    if not isinstance(source[key], Policy):
        raise TypeError(f"source must be a mapping of names to policies, not one with {source[key]!r}")
