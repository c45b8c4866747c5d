"""The command line: what is asked for wrongly, or cannot be had, is told in plain words."""

import re
import sys
from pathlib import Path

import pytest

from aiobreaker.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--duration", "3"], "argument --duration: must be at least 8 and at most 300 seconds, not 3"),
        (["--duration", "nan"], "argument --duration: must be at least 8 and at most 300 seconds, not nan"),
        (["--duration", "soon"], "argument --duration: invalid float value: 'soon'"),
        (["--backend", "curio"], "argument --backend: invalid choice: 'curio'"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--json", "--plain"], "not allowed with argument"),
    ],
)
def test_bad_arguments_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_missing_extra_is_named_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as end:
        main(["demo"])
    assert end.value.code == 2
    captured = capsys.readouterr()
    come = 'which come with the extra aiobreaker[demo] (in a checkout: pip install ".[demo]")'
    assert captured.err == f"the demo needs rich, uvicorn, {come}\n"
    assert captured.out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="its broken Python is a shell script")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_service_that_cannot_start_is_told_in_its_own_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no ports today\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert main(["demo", "--plain", "--backend", backend]) == 1
    assert capsys.readouterr().err == "aiobreaker demo: the payment service did not start: no ports today\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"aiobreaker \d+\.\d+\.\d+\n", capsys.readouterr().out)
