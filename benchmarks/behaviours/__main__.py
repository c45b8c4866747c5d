"""Runs all scripts against this breaker and every peer that is installed, and writes docs/behaviours.md.

With `uv run --group peers` the peers are there. It takes a few minutes.
"""

import argparse

from .gather import ROOT, everybody
from .page import page

PAGE = ROOT / "docs" / "behaviours.md"


def main() -> None:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(everybody()))
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
