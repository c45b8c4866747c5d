"""Runs one script against one breaker. What a breaker raises by its own fault is an answer too."""

import re

from .. import peers
from ..peers import Peer
from .measure import OURS
from .script import Answer
from .sections import BEHAVIOURS


def find(name: str) -> Peer:
    """A breaker by its name among the adapters, or ours."""
    if name == OURS:
        from . import ours

        return ours.PEER
    peer = peers.find(name)
    if peer is None:
        raise SystemExit(f"{name} is not installed")
    return peer


def answer(peer: Peer, backend: str, key: str) -> Answer:
    """What it does."""
    try:
        return BEHAVIOURS[key].answer(peer, backend)
    except AssertionError:
        raise  # the script does not suit it: that is for us to mend
    except Exception as error:
        leaf = _leaf(error)
        return Answer(f"raises `{type(leaf).__name__}`", re.sub(r"<(\S+) object at [^>]*>", r"`\1`", str(leaf)))


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
