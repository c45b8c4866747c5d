"""tenacity: retries; under trio with the help of sniffio."""

from typing import Any

import tenacity

from . import Shared, Toolkit, terms


def retry() -> Any:
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(terms.ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=terms.FIRST_DELAY, max=terms.LONGEST_DELAY),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )


TOOLKIT = Toolkit(
    distribution="tenacity",
    shared={terms.RETRY: Shared(retry, "counts its statistics at every call, too")},
)
