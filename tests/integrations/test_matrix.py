"""Every integration in every kind of trouble, against the real thing; and the table in the docs is what was found."""

import gc
from pathlib import Path

import pytest

from tests.integrations import matrix
from tests.integrations.matrix import BACKENDS, COLUMNS, Row
from tests.integrations.rows import ROWS
from tests.integrations.service import Service

# coredis does not close its memory streams when it finds no server
UNCLOSED = "ignore:Exception ignored in. <function MemoryObject:pytest.PytestUnraisableExceptionWarning"
REWRITE = "run: python -m tests.integrations.matrix"


@pytest.mark.filterwarnings(UNCLOSED)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
async def test_what_it_does(row: Row, column: str, anyio_backend: str, service: Service) -> None:
    if row.gap(anyio_backend, column) is not None:
        return
    found = await matrix.find(row, column, service)
    assert matrix.documented()[row.name, anyio_backend, column] == found, REWRITE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_an_empty_cell_has_a_reason(row: Row) -> None:
    assert set(row.gaps) <= {*BACKENDS, *COLUMNS}
    assert all(len(reason.split()) >= 3 for reason in row.gaps.values())
    assert (Path(matrix.PAGE).parent / row.link).exists()


@pytest.mark.filterwarnings(UNCLOSED)
def test_nothing_is_left_unclosed() -> None:
    gc.collect()  # what is not closed is told here and not in another test


def test_the_page_is_what_was_found() -> None:
    documented = matrix.documented()
    places = [(row.name, backend, column) for row in ROWS for backend in BACKENDS for column in COLUMNS]
    assert list(documented) == places
    assert all(cell.strip() for cell in documented.values())
    # each cell is held against a run by a test of its own; the rest of the table is this
    assert matrix.page(ROWS, documented) == matrix.PAGE.read_text(), REWRITE
