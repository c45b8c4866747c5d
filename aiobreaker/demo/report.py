"""The numbers of a record, worked out once: for the table at the end, and for programs as JSON."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .plot import CALLER_TIMEOUT, CALLS_PER_SECOND, SLOW_AFTER, TRIALS, TRIP_RATE
from .record import Call, Ending, Outage, Record

HEADER = ("Outage", "Sent", "Fine", "Slow", "Failed", "Refused", "Waiting\nsaved", "Time to\ndetect", "Time to\nrecover")
CAPTION = (
    "Waiting saved: calls refused while the service was down, times the mean wait of that outage's slow and failed calls. "
    "Time to detect: from the breaking of the service to OPEN. Time to recover: from its mending to CLOSED. "
    "The last row has their means."
)

_PACKAGES = ("aiobreaker", "anyio", "httpx2", "rich", "starlette", "trio", "uvicorn")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `in_vain` are refusals after the service was well again; `wait` is the mean of the bad calls."""

    name: str
    sent: int
    fine: int
    slow: int
    failed: int
    refused: int
    in_vain: int = 0
    wait: float | None = None
    saved: float | None = None
    detect: float | None = None
    recover: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in the table."""
        counts = (self.sent, self.fine, self.slow, self.failed, self.refused)
        saved = "-" if self.saved is None else f"{self.saved:.1f} s"
        return (self.name, *map(str, counts), saved, _seconds(self.detect), _seconds(self.recover))


def rows(record: Record) -> tuple[list[Row], Row, Row]:
    """A row for each outage, one for the times between them, and the total."""
    left = list(record.calls)
    outages: list[Row] = []
    for outage in record.outages:
        outages.append(_row(outage, [call for call in left if outage.touches(call)]))
        left = [call for call in left if not outage.touches(call)]
    between = Row(**_counts("in between", left))
    total = Row(
        **_counts("total", record.calls),
        in_vain=sum(row.in_vain for row in outages),
        saved=sum(row.saved or 0.0 for row in outages),
        detect=_mean(row.detect for row in outages if row.detect is not None),
        recover=_mean(row.recover for row in outages if row.recover is not None),
    )
    return outages, between, total


def _row(outage: Outage, calls: Sequence[Call]) -> Row:
    refused = [call for call in calls if call.ending is Ending.REFUSED]
    in_vain = sum(outage.mended_at is not None and call.sent_at >= outage.mended_at for call in refused)
    wait = _mean(call.took for call in calls if call.ending in (Ending.SLOW, Ending.FAILED))
    return Row(
        **_counts(outage.fault.value, calls),
        in_vain=in_vain,
        wait=wait,
        saved=None if wait is None else wait * (len(refused) - in_vain),
        detect=outage.time_to_detect,
        recover=outage.time_to_recover,
    )


def _counts(name: str, calls: Sequence[Call]) -> dict[str, Any]:
    counts = {ending.value: sum(call.ending is ending for call in calls) for ending in Ending}
    return {"name": name, "sent": len(calls), **counts}


def _mean(numbers: Iterable[float]) -> float | None:
    known = list(numbers)
    return sum(known) / len(known) if known else None


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f} s"


def as_json(record: Record) -> dict[str, Any]:
    """Everything that a program may want to know, in JSON's own types. Moments are seconds from the beginning."""
    outages, between, total = rows(record)
    refused = {call.number for call in record.calls if call.ending is Ending.REFUSED}
    return {
        "backend": record.backend,
        "seed": record.seed,
        "interrupted": record.interrupted_by is not None,
        "service_url": record.service_url,
        "elapsed": _rounded(record.elapsed),
        "totals": {
            **_numbers(total),
            "sent": record.sent,
            "unfinished": record.sent - len(record.calls),
            "reached_service": len(record.reached),
            "refused_but_reached_service": len(refused & record.reached),
        },
        "outages": [_numbers(row) | _moments(record, outage) for row, outage in zip(outages, record.outages, strict=True)],
        "in_between": _numbers(between),
        "events": [
            {
                "seq": event.seq,
                "at": _rounded(event.at - record.began_at),
                "old": event.old.value,
                "new": event.new.value,
                "cause": event.cause.value,
                "reason": event.reason,
                "open_for": event.open_for,
                "attempt": event.attempt,
            }
            for event in record.events
        ],
        "settings": _settings(record),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _numbers(row: Row) -> dict[str, Any]:
    return {
        "sent": row.sent,
        "fine": row.fine,
        "slow": row.slow,
        "failed": row.failed,
        "refused": row.refused,
        "refused_after_mending": row.in_vain,
        "mean_wait_of_bad_calls": _rounded(row.wait),
        "waiting_saved": _rounded(row.saved),
        "time_to_detect": _rounded(row.detect),
        "time_to_recover": _rounded(row.recover),
    }


def _moments(record: Record, outage: Outage) -> dict[str, Any]:
    names = ("broken_at", "detected_at", "mended_at", "recovered_at")
    moments = {name: getattr(outage, name) for name in names}
    known = {name: None if at is None else _rounded(at - record.began_at) for name, at in moments.items()}
    return {"fault": outage.fault.value, **known}


def _settings(record: Record) -> dict[str, Any]:
    return {
        "duration": record.plot.duration,
        "calls_per_second": CALLS_PER_SECOND,
        "caller_timeout": CALLER_TIMEOUT,
        "trip_rate": TRIP_RATE,
        "slow_after": SLOW_AFTER,
        "window": record.plot.window,
        "open_for": record.plot.open_for,
        "trials": TRIALS,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
