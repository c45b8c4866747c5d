"""A slow, obvious model of what the conditions mean: lists, no cleverness. Written from the rules alone."""

from dataclasses import dataclass, field

from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from aiobreaker.core.windows import LastCalls


@dataclass
class Bucket:
    start: float
    marks: list[bool] = field(default_factory=list)


class ConditionModel:
    """Everything that one condition has seen, and whether it is met."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.marks: list[bool] = []
        self.buckets: list[Bucket] = []

    def record(self, now: float, *, failed: bool, elapsed: float, cancelled: bool = False) -> bool:
        """Take in a call that has ended; True if it counts for this condition."""
        condition = self.condition
        slow = isinstance(condition, SlowCallRate) and elapsed >= condition.slower_than
        if cancelled and not slow:
            return False
        self._add(now, slow if isinstance(condition, SlowCallRate) else failed)
        return True

    def _add(self, now: float, mark: bool) -> None:
        self.marks.append(mark)
        condition = self.condition
        if isinstance(condition, ConsecutiveFailures) or isinstance(condition.window, LastCalls):
            return
        window = condition.window
        self.buckets = [bucket for bucket in self.buckets if now < bucket.start + window.span]
        if not self.buckets or now >= self.buckets[-1].start + window.span / window.buckets:
            self.buckets.append(Bucket(now))
        self.buckets[-1].marks.append(mark)

    def remembered(self, now: float) -> list[bool]:
        condition = self.condition
        if isinstance(condition, ConsecutiveFailures):
            return self.marks
        if isinstance(condition.window, LastCalls):
            return self.marks[-condition.window.size :]
        span = condition.window.span
        return [mark for bucket in self.buckets if now < bucket.start + span for mark in bucket.marks]

    def met(self, now: float) -> bool:
        condition, marks = self.condition, self.remembered(now)
        if isinstance(condition, ConsecutiveFailures):
            return len(marks) >= condition.failures and all(marks[-condition.failures :])
        if isinstance(condition, FailureCount):
            return sum(marks) >= condition.failures
        assert isinstance(condition, FailureRate | SlowCallRate)
        return len(marks) >= condition.minimum_calls and sum(marks) / len(marks) >= condition.rate
