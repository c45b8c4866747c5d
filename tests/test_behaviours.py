"""What the scripts that compare circuit breakers see of this one, and that the page which tells it is up to date."""

import re
from pathlib import Path

import pytest

from benchmarks.behaviours import ours
from benchmarks.behaviours.clock import installed
from benchmarks.behaviours.sections import BEHAVIOURS

PAGE = (Path(__file__).parent.parent / "docs" / "behaviours.md").read_text()

ANSWERS = {
    "stampede": "1; 3",
    "cancelled_trial": "nothing",
    "hung_trial": "60 s",
    "late_cancellation": "2",
    "late_success": "is ignored",
    "late_failure": "is ignored",
    "late_failures": "are ignored",
    "cancelled_call": "nothing",
    "outer_timeout": "yes",
    "never_answers": "yes",
    "exception_group": "yes",
    "window_forgets": "yes",
    "traceback_growth": "0",
    "memory": "0 kB",
    "starvation": "64; under trio 128",
    "retry_after": "in 20 s",
    "raising_observer": "nothing",
    "ordering_observer": "works",
    "half_open_told": "before the trial",
    "reading_the_state": "no",
    "loop_after_loop": "works",
    "two_threads": "1",
    "wall_clock": "yes",
    "signature": "yes",
    "async_generator": "guarded",
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("key", BEHAVIOURS)
def test_the_answers_are_what_is_expected(key: str, backend: str) -> None:
    with installed():
        answer = BEHAVIOURS[key].answer(ours.PEER, backend)
    under_asyncio, _, under_trio = ANSWERS[key].partition("; under trio ")
    assert answer.text == (under_trio or under_asyncio if backend == "trio" else under_asyncio)


def test_the_page_tells_these_answers_and_no_others() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+?)(?: <sup>[\d, ]+</sup>)? \|", PAGE, re.MULTILINE)
    told = {question: answer for question, answer in rows if question.strip("-")}
    assert told == {BEHAVIOURS[key].question: answer for key, answer in ANSWERS.items()}
