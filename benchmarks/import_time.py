"""How long `import aiobreaker` takes after asyncio and anyio, in fresh processes: their own processor time."""

import os
import statistics
import subprocess
import sys
import tempfile

from .rows import Row

BAR = 25.0
CODE = """
import asyncio, time, anyio
began = time.process_time()
{statement}
print((time.process_time() - began) * 1000)
"""


def import_row(runs: int) -> Row:
    """Milliseconds over those of importing nothing; median of paired runs. A first run, not counted, writes the byte code."""
    with tempfile.TemporaryDirectory() as cache:
        _import_ms("import aiobreaker", cache)
        pairs = [_import_ms("import aiobreaker", cache) - _import_ms("pass", cache) for _ in range(runs)]
    return Row("import aiobreaker, over importing anyio", statistics.median(pairs), BAR, "ms")


def _import_ms(statement: str, cache: str) -> float:
    code = CODE.format(statement=statement)
    settings = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}  # with byte code, whatever is set outside
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **settings}).stdout)
