"""The given/when/then facts of other libraries' test suites, as they stand in `vectors.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Vector:
    """One fact: settings, steps, and what must be seen on the way and at the end."""

    id: str
    source: str
    test: str
    given: str
    when: str
    then: str
    config: dict[str, Any]
    steps: list[list[Any]]
    expect: list[list[Any]]
    note: str

    def __str__(self) -> str:
        return self.id


VECTORS = tuple(Vector(**entry) for entry in json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")))
