"""Break the engine's core on purpose, in thousands of small ways, and see whether the tests notice.

`make mutants` runs it over everything that `[tool.mutmut]` in pyproject.toml names. That takes
hours; these choose less:

    make mutants MODULES="sagas/replay.py activities"
    make mutants SAMPLE=300 SEED=1

mutmut makes the mutants and runs each in a fork, against those tests that reach its line, fastest
first, until one fails. Here stand what we change about it, and the report. Verdicts stay
in mutants/: a killed mutant is not tried again until its function changes, a survivor always is.
`make clean` forgets them.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any, Final

import libcst as cst
import pytest
from coverage import Coverage, CoverageData
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation import file_mutation, mutators, trampoline
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.mutation.trampoline_templates import mangle_function_name
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.type_checking import TypeCheckingError, run_type_checker
from mutmut.utils.file_utils import change_cwd, walk_mutatable_files

COVERAGE: Final = "mutants/coverage.sqlite"
SECONDS: Final = "mutants/seconds.json"
NO_TESTS: Final = 33
CAUGHT_BY_TYPES: Final = 37
CPU_S: Final = 4  # and half as much again as its tests take: a mutant that takes more runs for ever
TESTS_S: Final = float(os.environ.get("TESTS_S") or 15)
KILLED: Final = ("killed", "timeout", "segfault")

Mutant = tuple[SourceFileMutationData, str]


# --- what is mutated: text is not, and statements, conditions and properties are


def drop_statement(node: cst.SimpleStatementLine) -> Iterator[cst.SimpleStatementLine]:
    """`foo(x)`, `await foo(x)`, `raise ...` and `del ...` become `pass`."""
    match node.body:
        case [cst.Expr(value=cst.Call() | cst.Await()) | cst.Raise() | cst.Del()]:
            yield node.with_changes(body=[cst.Pass()])


def return_nothing(node: cst.Return) -> Iterator[cst.Return]:
    """`return x` becomes `return None`."""
    if node.value is not None and not is_name(node.value, "None"):
        yield node.with_changes(value=cst.Name("None"))


def negate_condition(node: cst.If | cst.While | cst.CompIf) -> Iterator[cst.CSTNode]:
    """`if x:` becomes `if not x:`; comparisons have mutants of their own."""
    if is_bare(node.test):
        yield node.with_changes(test=negated(node.test))


def negate_operand(node: cst.BooleanOperation) -> Iterator[cst.CSTNode]:
    """`x and y` becomes `not x and y`, and `x and not y`."""
    for side in ("left", "right"):
        operand = getattr(node, side)
        if is_bare(operand):
            yield node.with_changes(**{side: negated(operand)})


def is_name(node: cst.CSTNode, name: str) -> bool:
    return isinstance(node, cst.Name) and node.value == name


def is_bare(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Name | cst.Attribute | cst.Call | cst.Subscript | cst.Await)


def negated(node: Any) -> cst.UnaryOperation:
    plain = node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.UnaryOperation(operator=cst.Not(), expression=plain)


def is_property(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.FunctionDef)
        and len(node.decorators) == 1
        and is_name(node.decorators[0].decorator, "property")
    )


def change_operators() -> None:
    """What a message says is nobody's money: strings stay as they are."""
    operators = [each for each in mutators.mutation_operators if each[0] is not cst.BaseString]
    operators += [
        (cst.SimpleStatementLine, drop_statement),
        (cst.Return, return_nothing),
        (cst.If, negate_condition),
        (cst.While, negate_condition),
        (cst.CompIf, negate_condition),
        (cst.BooleanOperation, negate_operand),
    ]
    file_mutation.mutation_operators = operators


def include_properties() -> None:
    """mutmut leaves every decorated function out, but half of what a step is are properties."""
    skip = file_mutation.MutationVisitor._skip_node_and_children
    arrange = file_mutation.function_trampoline_arrangement

    def skip_text(visitor: Any, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FormattedString | cst.ConcatenatedString):
            return True
        return not is_property(node) and skip(visitor, node)

    def arrange_property(function: Any, mutants: Any, class_name: str | None) -> Any:
        declared, nodes, assigned, names = arrange(function, mutants, class_name)
        if is_property(function):
            trampoline, *copies = nodes
            nodes = [trampoline, *(copy.with_changes(decorators=[]) for copy in copies)]
        return declared, nodes, assigned, names

    file_mutation.MutationVisitor._skip_node_and_children = skip_text
    file_mutation.function_trampoline_arrangement = arrange_property


def quicken_trampolines() -> None:
    """They ask which mutant is on at every call, and the environment is slow to answer."""
    trampoline.get_mutant_under_test = lambda: trampoline._mutant_under_test or ""


# --- making, choosing and running them


def make_mutants() -> list[Mutant]:
    """Write the mutated sources to mutants/."""
    set_mutant_under_test("mutant_generation")
    print("making mutants", flush=True)
    with redirect_stdout(StringIO()):
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.setup_source_paths()
        mutmut.create_mutants(1)
    return [(data, name) for data in load_verdicts() for name in data.exit_code_by_key]


def load_verdicts() -> Iterator[SourceFileMutationData]:
    rank = {path: number for number, path in enumerate(config().only_mutate)}
    for path in sorted(walk_mutatable_files(), key=lambda path: rank.get(str(path), len(rank))):
        data = SourceFileMutationData(path=path)
        data.load()
        yield data


def check_types(mutants: list[Mutant]) -> None:
    """A mutant that `make check` refuses proves nothing about the tests."""
    print("checking their types", flush=True)
    command = [sys.executable, "-m", "mypy", "--output=json", "src"]
    with change_cwd("mutants"):
        errors = run_type_checker(command)
    by_path: dict[str, list[TypeCheckingError]] = defaultdict(list)
    for error in errors:
        by_path[os.path.relpath(error.file_path, Path("mutants").resolve())].append(error)
    data_by_path = {str(data.path): data for data, _ in mutants}
    for path, data in data_by_path.items():
        for name in refused_by_types(data, by_path[path]):
            data.exit_code_by_key[name] = CAUGHT_BY_TYPES
        data.save()


def refused_by_types(
    data: SourceFileMutationData, errors: Iterable[TypeCheckingError]
) -> Iterator[str]:
    """The mutants with an error that the unchanged copy of their function does not have too."""
    found: dict[str, set[str]] = defaultdict(set)
    lines = MutantLineSpans.load(data.path)
    assert lines is not None
    for error in errors:
        for function, span in lines.span_by_function_name.items():
            if span.start <= error.line_number <= span.end:
                found[function].add(error.error_description)
    for name in data.exit_code_by_key:
        function = name.rpartition(".")[2]
        original = function.rpartition("_")[0] + "_orig"
        if found[function] - found[original]:
            yield name


def choose(mutants: list[Mutant], modules: list[str], sample: int, seed: int) -> list[Mutant]:
    """Those that the type checker lets through, of these modules, as many as wanted."""
    if modules:
        paths = tuple(f"src/amends/{module}" for module in modules)
        mutants = [mutant for mutant in mutants if str(mutant[0].path).startswith(paths)]
    mutants = [
        (data, name) for data, name in mutants if data.exit_code_by_key[name] != CAUGHT_BY_TYPES
    ]
    if not 0 < sample < len(mutants):
        return mutants
    chosen = set(random.Random(seed).sample(range(len(mutants)), sample))
    return [mutant for number, mutant in enumerate(mutants) if number in chosen]


def is_killed(mutant: Mutant) -> bool:
    data, name = mutant
    verdict = data.exit_code_by_key[name]
    return verdict is not None and status_by_exit_code[verdict] in KILLED


def run(mutants: list[Mutant]) -> None:
    """Run what is not known to be killed, one at a time."""
    reached = tests_by_line()
    runner = mutmut.get_mutant_runner(1)
    set_mutant_under_test("")
    print("loading the tests", flush=True)
    with redirect_stdout(StringIO()):
        runner.list_all_tests()
    runner.startup()
    for number, (data, name) in enumerate(mutants, start=1):
        tests = tests_of(data.path, name, reached)
        if not tests:
            data.exit_code_by_key[name] = NO_TESTS
        elif not is_killed((data, name)):
            seconds = sum(state().duration_by_test[test] for test in tests)
            runner.submit(name, tests, ceil(CPU_S + 1.5 * seconds), seconds)
            result = runner.wait_for_result()
            data.exit_code_by_key[name] = result.exit_code
            data.durations_by_key[name] = result.duration
            verdict = status_by_exit_code[result.exit_code]
            print(f"{number}/{len(mutants)} {verdict} ({result.duration:.1f} s) {name}", flush=True)
        data.save()
    runner.shutdown()


# --- which tests: those that reach the line, where mutmut takes all that reach the function


class Recorder:
    """A plugin of pytest: tells coverage.py which test runs, and how long it took."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def record_coverage() -> None:
    """Run the tests once, without mutants, in a process of its own."""
    coverage = Coverage(data_file=COVERAGE, source=["src/amends"], config_file=False)
    recorder = Recorder(coverage)
    coverage.start()
    arguments = config().pytest_add_cli_args + config().pytest_add_cli_args_test_selection
    verdict = pytest.main(["-x", "-q", *arguments], plugins=[recorder])
    coverage.stop()
    if verdict:
        os._exit(1)
    coverage.save()
    Path(SECONDS).write_text(json.dumps(recorder.seconds))


def see_who_reaches_what() -> None:
    """Record it, unless that was done for these sources and tests."""
    files = [file for folder in ("src", "tests") for file in Path(folder).rglob("*.py")]
    newest = max(file.stat().st_mtime for file in files)
    if Path(SECONDS).exists() and Path(SECONDS).stat().st_mtime > newest:
        return
    Path(COVERAGE).unlink(missing_ok=True)
    os.makedirs("mutants", exist_ok=True)
    print("seeing which tests reach which lines", flush=True)
    process = multiprocessing.get_context("fork").Process(target=record_coverage)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the tests fail without any mutant: mend that first")


def tests_by_line() -> Callable[[Path, int], Iterable[str]]:
    """Who reaches a line of a file."""
    state().duration_by_test = json.loads(Path(SECONDS).read_text())
    data = CoverageData(COVERAGE)
    data.read()

    @cache
    def contexts(path: Path) -> Mapping[int, Iterable[str]]:
        found: Mapping[int, Iterable[str]] = data.contexts_by_lineno(str(path.resolve()))
        return found

    return lambda path, line: contexts(path).get(line, ())


def tests_of(path: Path, name: str, reached: Callable[[Path, int], Iterable[str]]) -> list[str]:
    """The fastest of those that reach the line of a mutant, as many as there is time for."""
    took = state().duration_by_test
    tests = {test for line in lines_of(path, name) for test in reached(path, line)} & took.keys()
    fastest = sorted(tests, key=lambda test: took[test])
    sums = accumulate(took[test] for test in fastest)
    return [test for test, sum_s in zip(fastest, sums, strict=True) if sum_s <= TESTS_S]


def lines_of(path: Path, name: str) -> range:
    """The lines of the statement that a mutant changes, or of the head of a compound one."""
    mangled = name.rpartition(".")[2]
    original = mangled.rpartition("_")[0] + "_orig"
    spans = MutantLineSpans.load(path)
    assert spans is not None
    before, after = (text.splitlines() for text in spans.read_function_sources([original, mangled]))
    head = next(number for number, text in enumerate(before) if f" {original}(" in text)
    changed = next(
        (
            number
            for number, (old, new) in enumerate(zip(before, [*after, ""], strict=False))
            if old != new and number != head
        ),
        None,
    )
    function = functions_of(path)[original.removesuffix("__mutmut_orig")]
    if changed is None:  # a default value: whoever calls
        return range(function.lineno, (function.end_lineno or function.lineno) + 1)
    line = function.lineno + changed - head
    inside = [
        each
        for each in ast.walk(function)
        if isinstance(each, ast.stmt) and each.lineno <= line <= (each.end_lineno or each.lineno)
    ]
    statement = max(inside, key=lambda each: each.lineno)
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(end, line) + 1)


@cache
def functions_of(path: Path) -> dict[str, ast.stmt]:
    """The functions and methods of a file by the names that mutmut gives them."""
    found: dict[str, ast.stmt] = {}
    for top in ast.parse(path.read_text()).body:
        owner = top.name if isinstance(top, ast.ClassDef) else None
        for each in top.body if isinstance(top, ast.ClassDef) else [top]:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found[mangle_function_name(name=each.name, class_name=owner)] = each
    return found


# --- the report


def report(mutants: list[Mutant], chosen: list[Mutant]) -> None:
    """Print each survivor as a diff, and the score of each module."""
    for data, name in chosen:
        if not is_killed((data, name)):
            print(f"\n{status_by_exit_code[data.exit_code_by_key[name]].upper()} {name}")
            print(get_diff_for_mutant(name, path=data.path))
    refused = sum(data.exit_code_by_key[name] == CAUGHT_BY_TYPES for data, name in mutants)
    print(f"\n{len(mutants)} mutants, of which the type checker refuses {refused}.")
    print(f"{len(chosen)} of the other {len(mutants) - refused} were run:\n")
    print(f"{'killed':>12} {'survived':>9} {'no tests':>9}  module")
    for path in dict.fromkeys(str(data.path) for data, _ in chosen):
        print(line([mutant for mutant in chosen if str(mutant[0].path) == path], path))
    print(line(chosen, "in all"))


def line(mutants: Iterable[Mutant], title: str) -> str:
    verdicts = Counter(
        "killed"
        if is_killed(mutant)
        else status_by_exit_code[mutant[0].exit_code_by_key[mutant[1]]]
        for mutant in mutants
    )
    killed, total = verdicts["killed"], verdicts.total()
    score = f"{killed / total:.1%}" if total else "-"
    odd = total - killed - verdicts["survived"] - verdicts["no tests"]
    title += f" ({odd} others)" if odd else ""
    return f"{killed:>5} {score:>6} {verdicts['survived']:>9} {verdicts['no tests']:>9}  {title}"


def main() -> None:
    os.environ.setdefault("AMENDS_SEEDS", "5")
    change_operators()
    include_properties()
    quicken_trampolines()
    see_who_reaches_what()
    mutants = make_mutants()
    check_types(mutants)
    modules = os.environ.get("MODULES", "").split()
    sample, seed = int(os.environ.get("SAMPLE") or 0), int(os.environ.get("SEED") or 1)
    chosen = choose(mutants, modules, sample, seed)
    if not chosen:
        sys.exit(f"no mutants in {' '.join(modules)}; name files or folders below src/amends")
    run(chosen)
    report(mutants, chosen)
    print(f"\nsample: {sample or 'all'}, seed {seed}")


if __name__ == "__main__":
    main()
