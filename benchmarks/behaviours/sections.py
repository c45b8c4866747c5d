"""All behaviours, in the order in which the page shows them."""

from . import half_open, late, observers, outcomes, refusals, surroundings
from .script import Behaviour, Section

SECTIONS: list[Section] = [
    half_open.SECTION,
    late.SECTION,
    outcomes.SECTION,
    refusals.SECTION,
    observers.SECTION,
    surroundings.SECTION,
]

BEHAVIOURS: dict[str, Behaviour] = {each.key: each for section in SECTIONS for each in section.behaviours}
