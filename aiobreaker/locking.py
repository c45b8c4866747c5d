"""The one lock of the process. It covers every transition and nothing else: no await, no user code, no I/O under it.

One for all breakers, because a fork must never copy it while it is held: it is taken before the fork and given back on both
sides. Finalisers can run anywhere, also while it is held, so they may only try for it.
"""

import os
import threading

LOCK = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
