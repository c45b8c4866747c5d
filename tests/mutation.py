"""Mutation testing: every small change to the core and the breaker must make a test fail, or have a reason why it cannot.

    uv run --isolated --group mutation python -m tests.mutation [core] [toolkit] [breaker]

It works in a copy of the project, and writes the results into docs/mutation.md, where each survivor keeps its reason, and the
parts that are not run keep their results.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).parents[1]
COPY = PROJECT / "build" / "mutation"
PAGE = PROJECT / "docs" / "mutation.md"
MUTMUT = (sys.executable, "-m", "mutmut")
RESULT = "## Result\n"
LEAST_KILLED = 0.95
NO_REASON = "No reason yet."

PROFILE = """
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutation",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutation")
"""  # the same examples every time; nothing is killed by a busy machine, and no time spent on smaller examples

CORE_TESTS = ["tests/core", "--ignore=tests/core/test_explorer.py"]  # half a minute for each that survives; see the page
FACE = ("edges_breaker", "breaker", "events", "fallback", "guards", "streams", "settings")
TOOLKIT = ("backoff", "budgets", "entries", "limits", "quantiles", "rates", "throttling")
CORE = sorted({file.stem for file in (PROJECT / "aiobreaker" / "core").glob("*.py")} - set(TOOLKIT))
PARTS = {  # files, and the tests that must kill their mutants
    "core": ([f"aiobreaker/core/{name}.py" for name in CORE], CORE_TESTS),
    "toolkit": ([f"aiobreaker/core/{name}.py" for name in TOOLKIT], [f"tests/core/test_{name}.py" for name in TOOLKIT]),
    "breaker": (["aiobreaker/breaker.py"], [f"tests/test_{name}.py" for name in FACE]),
}

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"
ENDS = {  # by the tool's exit codes; one that is not here stops the report
    **dict.fromkeys((1, 3), KILLED),
    **dict.fromkeys((24, -24, 36, 152, 255), TIMED_OUT),
    **dict.fromkeys((0, 5, 33), SURVIVED),  # 5 and 33: no test calls it
}


@dataclass
class Report:
    """How the mutants of one file ended; the survivors as (function, difference)."""

    file: str
    ends: Counter[str] = field(default_factory=Counter)
    survivors: list[tuple[str, str]] = field(default_factory=list)

    @property
    def mutants(self) -> int:
        return self.ends.total()

    @property
    def killed(self) -> int:
        return self.mutants - self.ends[SURVIVED]


def copy_project(part: str) -> Path:
    """A fresh copy, with the settings for this part."""
    copy = COPY / part
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in ("aiobreaker", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for source in (copy / "aiobreaker").rglob("*.py"):
        source.write_text(undecorated(source.read_text()))
    with (copy / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(PROFILE)
    mutate, tests = PARTS[part]
    own = f"only_mutate = {json.dumps(mutate)}\npytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
    settings = (PROJECT / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(settings.replace("[tool.mutmut]\n", "[tool.mutmut]\n" + own))
    return copy


def undecorated(source: str) -> str:
    """The same code with `name = property(name)` after a function in place of `@property` before it: the tool passes over
    functions with decorators.
    """
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in sorted(functions, key=lambda node: -node.lineno):
        match function.decorator_list:
            case [ast.Name("property" | "asynccontextmanager" as decorator, lineno=line, col_offset=column)]:
                lines.insert(function.end_lineno or 0, f"{' ' * (column - 1)}{function.name} = {decorator}({function.name})")
                del lines[line - 1]
    return "\n".join(lines) + "\n"


def run(part: str) -> list[Report]:
    copy = copy_project(part)
    subprocess.run([*MUTMUT, "run", "--max-children", "1"], cwd=copy, check=True)
    reports = [report(copy, each) for each in (copy / "mutants").rglob("*.py.meta")]
    return [each for each in reports if each.mutants]


def report(copy: Path, meta: Path) -> Report:
    ends: dict[str, int] = json.loads(meta.read_text())["exit_code_by_key"]
    found = Report(str(meta.relative_to(copy / "mutants")).removesuffix(".meta"))
    for mutant, code in ends.items():
        end = ENDS[code]
        found.ends[end] += 1
        if end == SURVIVED:
            found.survivors.append((function_name(mutant), difference(copy, mutant)))
    return found


def function_name(mutant: str) -> str:
    """`Era.in_flight` for `aiobreaker.core.eras.xǁEraǁin_flight__mutmut_3`."""
    name = mutant.rpartition(".")[2].rpartition("__mutmut_")[0]
    return name.removeprefix("x").replace("ǁ", ".").removeprefix(".") if "ǁ" in name else name.removeprefix("x_")


def difference(copy: Path, mutant: str) -> str:
    shown = subprocess.run([*MUTMUT, "show", mutant], cwd=copy, check=True, capture_output=True, text=True).stdout
    changed = [line for line in shown.splitlines() if line[:1] in ("-", "+") and not line.startswith(("---", "+++"))]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in changed)


def told(page: str) -> list[tuple[str, str, str]]:
    """The survivors on a page, or a part of one: function, difference, reason."""
    return re.findall(r"^`([^`\n]+)`\n\n```diff\n(.*?)\n```\n\n(.*?)\n(?=\n|\Z)", page, re.MULTILINE | re.DOTALL)


def earlier_reports(page: str) -> list[Report]:
    """The results that stand on the page."""
    reports = []
    for file, *counts in re.findall(r"^\| (\S+\.py) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE):
        _, killed, timed_out, survived = map(int, counts)
        ends = Counter({KILLED: killed - timed_out, TIMED_OUT: timed_out, SURVIVED: survived})
        survivors = told(page.partition(f"\n### {file}\n")[2].partition("\n### ")[0])
        reports.append(Report(file, ends, [(function, diff) for function, diff, _ in survivors]))
    return reports


def result(reports: list[Report], reasons: dict[tuple[str, str], str]) -> str:
    rows = ["| file | mutants | killed | of them by time | survived | killed |", "|---|--:|--:|--:|--:|--:|"]
    total = Report("together")
    for each in reports:
        total.ends += each.ends
    for each in [*reports, total]:
        counts = f"{each.mutants} | {each.killed} | {each.ends[TIMED_OUT]} | {each.ends[SURVIVED]}"
        rows.append(f"| {each.file} | {counts} | {each.killed / each.mutants:.1%} |")
    text = "\n".join(rows) + "\n"
    for each in reports:
        if each.survivors:
            text += f"\n### {each.file}\n"
        for function, diff in each.survivors:
            reason = reasons.get((function, diff), NO_REASON)
            text += f"\n`{function}`\n\n```diff\n{diff}\n```\n\n{reason}\n"
    return text


def main(parts: list[str]) -> int:
    fresh = [each for part in parts or PARTS for each in run(part)]
    page = PAGE.read_text()
    known = {each.file: each for each in [*earlier_reports(page), *fresh]}
    reports = [known[file] for files, _ in PARTS.values() for file in files if file in known]
    text = result(reports, {(function, diff): reason for function, diff, reason in told(page)})
    PAGE.write_text(page.partition(RESULT)[0] + RESULT + "\n" + text)
    sys.stdout.write(text)
    killed, mutants = sum(each.killed for each in reports), sum(each.mutants for each in reports)
    return 0 if killed >= LEAST_KILLED * mutants and NO_REASON not in text else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
