"""One process of the behaviours: one breaker, one backend, some scripts. Prints JSON: a line about it, and one for each answer.

A script that hangs ends the process, and says so; whoever started it goes on with the next script in another process.
"""

import faulthandler
import json
import logging
import sys
import warnings
from dataclasses import asdict

from .clock import installed

HANGS_AFTER = 30.0  # seconds

OURS = "this one"


def main() -> None:
    """Run scripts: the breaker, the backend, and the scripts by their keys come as arguments."""
    name, backend, *keys = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # what a peer logs and warns of is not what is measured
    warnings.simplefilter("ignore")
    with installed():  # before a peer is imported
        from .answers import answer, find

        subject = find(name)
        backends = ["asyncio", *["trio"][: subject.trio]]
        print(json.dumps({"label": subject.label, "cannot": subject.cannot, "backends": backends}), flush=True)
        for key in keys if backend in backends else ():
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            found = answer(subject, backend, key)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"key": key, **asdict(found)}), flush=True)


if __name__ == "__main__":
    main()
