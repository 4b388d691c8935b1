"""The lint: what a saga's source does that a replay could not repeat, found before it runs.

It reads the function, what is defined inside it, and the functions of the same package that it
calls, and resolves their names to the real objects, so that an alias hides nothing. It knows
clocks, entropy, I/O, threads, the environment, and the order of sets. What it cannot see (a call
through a variable, code without source) is left to the guard and to the replay's comparison with
the journal.

A comment `# amends: deterministic` at the end of a line silences it there, and after a `def` for
the whole function.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections import deque
from collections.abc import Callable
from tokenize import TokenError
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple

from amends.errors import NotAllowedInSaga
from amends.sagas.lint_names import Comprehension, Names, Resolved, Scope, Scoped
from amends.sagas.lint_rules import THREADS, Judge, Rule
from amends.sagas.lint_sets import Sets

#: How many functions are read for one saga, itself included.
FUNCTIONS_MAX: Final = 200

_SILENCED: Final = re.compile(r"#\s*amends:\s*deterministic\b")
_SET_ORDER: Final = Rule(
    "is a set: its order, which counts here, differs between runs",
    "sorted(...), or dict.fromkeys(...) in the set's place",
)


class Finding(NamedTuple):
    """One thing in a saga's source that a replay could not repeat, and what to use instead."""

    line: int
    column: int
    what: str
    instead: str
    file: str
    function: str


def lint(fn: Callable[..., Any]) -> list[Finding]:
    """What a saga's function does that it must not, in the order of reading; empty if nothing.

    A function without source (made by `exec`, typed at a prompt) has no findings.
    """
    findings: list[Finding] = []
    todo = deque([_plain_function(fn)])
    seen: set[object] = set()
    judge = Judge()
    while todo and len(seen) < FUNCTIONS_MAX:
        function = todo.popleft()
        if function is None or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        source = _Source.of(function)
        if source is None:
            continue
        reader = _Reader(function, source, judge)
        try:
            reader.read()
        except RecursionError:
            continue  # nested more deeply than anybody writes: the other guards remain
        findings.extend(sorted(reader.findings))
        todo.extend(reader.calls)
    return findings


def check_source(fn: Callable[..., Any]) -> None:
    """Raise NotAllowedInSaga, naming every line and what to use instead, if `lint` finds anything.

    Call it when every function of the module is defined, or it cannot follow calls to those that
    are not yet.
    """
    findings = lint(fn)
    if not findings:
        return
    name = getattr(fn, "__qualname__", repr(fn))
    lines = [
        f"  {found.file}:{found.line}: {found.what}. Use instead: {found.instead}"
        + (f" (in {found.function})" if found.function != name else "")
        for found in findings
    ]
    raise NotAllowedInSaga(
        f"saga {name} does what its replays could not repeat:\n"
        + "\n".join(lines)
        + "\nNothing was registered. If a line is the same on every replay all the same, end it "
        "with the comment `# amends: deterministic`."
    )


class _Source(NamedTuple):
    """The source of one function, as the interpreter has it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    lines: list[str]
    first_line: int
    """Where `lines` begin in the file, from 1."""
    file: str

    @classmethod
    def of(cls, fn: FunctionType) -> _Source | None:
        try:
            lines, first_line = inspect.getsourcelines(fn)
            # Under an `if`, so that an indented function can stand as it is, strings and all.
            indented = lines[0][:1].isspace()
            tree = ast.parse(("if 1:\n" if indented else "") + "".join(lines))
        except (OSError, TypeError, SyntaxError, ValueError, RecursionError, TokenError):
            return None
        statement = tree.body[0]
        if indented and isinstance(statement, ast.If):
            statement = statement.body[0]
            ast.increment_lineno(tree, -1)
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        return cls(statement, lines, first_line, inspect.getsourcefile(fn) or "<unknown>")

    def is_silenced(self, first: int, last: int) -> bool:
        """Whether a comment at the end of one of these lines of the function says so."""
        return any(_SILENCED.search(line) for line in self.lines[first - 1 : last])


class _Reader(ast.NodeVisitor):
    """Reads one function, with what is defined inside it."""

    def __init__(self, fn: FunctionType, source: _Source, judge: Judge) -> None:
        self.findings: list[Finding] = []
        self.calls: list[FunctionType | None] = []
        self._fn = fn
        self._source = source
        self._judge = judge
        self._names = Names(fn)
        self._scope = Scope(source.node, None)
        arguments = [*source.node.args.posonlyargs, *source.node.args.args]
        self._sets = Sets(self._names, arguments[0].arg if arguments else None)

    def read(self) -> None:
        """Fill `findings`, and `calls` with the functions to be read next."""
        node = self._source.node
        if self._source.is_silenced(node.lineno, node.body[0].lineno - 1):
            return
        self._visit_all(*node.args.defaults, *node.args.kw_defaults, *node.body)

    def visit(self, node: ast.AST) -> None:
        """Look for sets whose order gets out, then for everything else."""
        scope = Scope(node, self._scope) if isinstance(node, Comprehension) else self._scope
        for source in self._sets.uses(node, scope):
            self._report(source, f"`{ast.unparse(source)}` {_SET_ORDER.what}", _SET_ORDER.instead)
        if isinstance(node, ast.AnnAssign):
            self._visit_all(node.target, node.value)
        else:
            super().visit(node)

    # --- scopes: decorators, defaults and bases are evaluated outside, annotations not at all

    def _visit_all(self, *nodes: ast.AST | None) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _visit_inside(self, node: Scoped, *children: ast.AST) -> None:
        outer, self._scope = self._scope, Scope(node, self._scope)
        self._visit_all(*children)
        self._scope = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(*node.decorator_list, *node.args.defaults, *node.args.kw_defaults)
        if not self._source.is_silenced(node.lineno, node.body[0].lineno - 1):
            self._visit_inside(node, *node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all(*node.args.defaults, *node.args.kw_defaults)
        self._visit_inside(node, node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(*node.decorator_list, *node.bases, *node.keywords)
        self._visit_inside(node, *node.body)

    def _visit_comprehension(self, node: Comprehension) -> None:
        self._visit_inside(node, *ast.iter_child_nodes(node))

    visit_ListComp = visit_SetComp = _visit_comprehension  # noqa: N815
    visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815

    # --- names and calls

    def visit_Name(self, node: ast.Name) -> None:
        self._judged(node, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self._judged(node, None):
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "run_in_executor":
            self._report(node.func, f"`{ast.unparse(node.func)}` {THREADS.what}", THREADS.instead)
        elif not self._judged(node.func, node):
            self.visit(node.func)
        self._visit_all(*node.args, *node.keywords)

    def _judged(self, node: ast.expr, call: ast.Call | None) -> bool:
        """Whether there was a finding."""
        if isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            return False
        target = self._names.resolve(node, self._scope)
        if target is None:
            return False
        broken = self._judge.rule_for(target, call)
        if broken is None:
            if call is not None:
                self._follow(target)
            return False
        name, rule = broken
        written = ast.unparse(node)
        known_as = f" ({name})" if name not in ("", written, f"builtins.{written}") else ""
        self._report(node, f"`{written}`{known_as} {rule.what}", rule.instead)
        return True

    def _follow(self, target: Resolved) -> None:
        function = _plain_function(target.value)
        if function is not None and _same_house(self._fn, function):
            self.calls.append(function)

    def _report(self, node: ast.expr, what: str, instead: str) -> None:
        if self._source.is_silenced(node.lineno, node.end_lineno or node.lineno):
            return
        line = self._source.first_line + node.lineno - 1
        function = self._fn.__qualname__
        self.findings.append(
            Finding(line, node.col_offset + 1, what, instead, self._source.file, function)
        )


def _plain_function(value: object) -> FunctionType | None:
    """The function with the source, out of its wrappers; None for objects such as activities."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType | _Cached):
        try:
            value = inspect.unwrap(value)
        except ValueError:  # wrapped in a circle
            return None
    return value if isinstance(value, FunctionType) else None


_Cached: Final = type(functools.cache(len))


def _same_house(caller: FunctionType, called: FunctionType) -> bool:
    """Whether both belong to the user's own code, rather than to a library that it calls."""
    if caller.__module__ == called.__module__:
        return True
    package = caller.__module__.partition(".")[0]
    return package == called.__module__.partition(".")[0] and package != "amends"
