"""What a setting may be. One wording for all: the argument, the value, and what is allowed."""

from math import isfinite, isnan
from typing import cast


def number(argument: str, value: object, allowed: str) -> float:
    """The value as a float; TypeError for what is no number (a bool is none), ValueError for NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be {allowed}, not {value!r}")
    try:
        real = float(value)
    except OverflowError:
        raise ValueError(f"{argument} must be {allowed}, not a whole number of {int(value).bit_length()} bits") from None
    if isnan(real):
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return real


def seconds(argument: str, value: object) -> float:
    """A finite duration above zero."""
    allowed = "a finite number of seconds above 0"
    duration = number(argument, value, allowed)
    if not (duration > 0 and isfinite(duration)):
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return duration


def wait(argument: str, value: object) -> float:
    """A duration that may be zero (not at all) or infinite (as long as it takes)."""
    allowed = "a number of seconds, 0 or more (infinity allowed)"
    duration = number(argument, value, allowed)
    if duration < 0:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return duration


def fraction(argument: str, value: object) -> float:
    """A rate above 0 and up to 1."""
    allowed = "a fraction above 0 and at most 1"
    rate = number(argument, value, allowed)
    if not 0 < rate <= 1:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return rate


def spread(argument: str, value: object) -> float:
    """A fraction from 0 (none) to below 1."""
    allowed = "a fraction, 0 or more and below 1"
    share = number(argument, value, allowed)
    if not 0 <= share < 1:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return share


def error_types(argument: str, value: object) -> tuple[type[Exception], ...]:
    """One exception type or a tuple of them, perhaps empty, as a tuple."""
    types: tuple[object, ...] = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(each, type) and issubclass(each, Exception) for each in types):
        raise TypeError(f"{argument} must be an exception type or a tuple of them, not {value!r}")
    return cast("tuple[type[Exception], ...]", types)


def count(argument: str, value: object, *, at_least: int = 1, at_most: int | None = None) -> int:
    """A whole number within bounds."""
    allowed = f"a whole number, {at_least} or more" if at_most is None else f"a whole number from {at_least} to {at_most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be {allowed}, not {value!r}")
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return value
