"""Which expressions of saga code are sets, and where their order is let loose.

The order of a set of strings differs between processes (their hashes are seeded), and that of a
set of plain objects between any two runs (their hashes are addresses). Numbers hash alike
everywhere, and the loop makes tasks do so too: sets of those are in order.
"""

from __future__ import annotations

import ast
import weakref
from asyncio import all_tasks
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from decimal import Decimal
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, get_type_hints
from uuid import UUID

from amends.sagas.lint_names import UNKNOWN, Comprehension, Names, Scope, expression

_SETS: Final = {set, frozenset, weakref.WeakSet}
_SET_METHODS: Final = {"copy", "difference", "intersection", "symmetric_difference", "union"}
_SET_OPERATORS: Final = (ast.Sub, ast.BitAnd, ast.BitOr, ast.BitXor)
_SET_ANNOTATION: Final = {"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"}
#: Hashed by their value, without a seed: sets of these have the same order everywhere.
_NUMBERS: Final = (int, float, Decimal, UUID)
_NUMBER_NAMES: Final = {"int", "float", "bool", "Decimal", "UUID"}
#: Hashed by their number in the loop; which is so whatever their result is.
_TASK_NAMES: Final = {"Task", "Future"}

#: What makes something ordered of its first argument, or of each.
_ORDERING: Final = {list, tuple, iter, enumerate, zip, map, filter, deque, chain, reversed}
#: What gives the same whatever the order.
_UNORDERING: Final = {sorted, set, frozenset, len, sum, min, max, any, all, bool}
#: What hands on the order it was given, and that is all.
_PASSING_ON: Final = {"list", "tuple", "map", "filter"}
_TASK_MAKERS: Final = {"create_task", "ensure_future"}


class Sets:
    """Recognises unordered expressions in the source of one function."""

    def __init__(self, names: Names, context: str | None) -> None:
        self._names = names
        self._context = context
        """The name of the saga's context: calls of its methods are decisions."""
        self._excused: set[int] = set()
        self._under_way: set[tuple[str, int, str]] = set()

    # --- where order is let loose

    def uses(self, node: ast.AST, scope: Scope) -> Iterator[ast.expr]:
        """The sets whose order this very node depends on."""
        match node:
            case ast.For(iter=source) | ast.AsyncFor(iter=source) | ast.YieldFrom(value=source):
                yield from self._if_unordered(source, scope)
            case ast.Starred(ctx=ast.Load(), value=source) if id(node) not in self._excused:
                yield from self._if_unordered(source, scope)
            case ast.Assign(targets=[ast.Tuple(elts=[_, _, *_]) | ast.List(elts=[_, _, *_])]):
                yield from self._if_unordered(node.value, scope)
            case ast.ListComp() | ast.DictComp() | ast.SetComp() | ast.GeneratorExp():
                yield from self._comprehension(node, scope)
            case ast.Call():
                yield from self._call(node, scope)
            case ast.Set(elts=elements):
                for element in elements:
                    self._excuse(element)

    def _comprehension(self, node: Comprehension, scope: Scope) -> Iterator[ast.expr]:
        if isinstance(node, ast.SetComp):
            self._excuse(node)
        if id(node) not in self._excused:
            for generator in node.generators:
                yield from self._if_unordered(generator.iter, scope)

    def _call(self, node: ast.Call, scope: Scope) -> Iterator[ast.expr]:
        function = self._function(node.func, scope)
        if function in _UNORDERING or function is print:
            for argument in node.args:
                self._excuse(argument)
        elif id(node) in self._excused:
            pass
        elif function in _ORDERING or self._is_ordering_method(node, scope):
            for argument in node.args:
                yield from self._if_unordered(argument, scope)
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            yield from self._if_unordered(node.func.value, scope)

    def _is_ordering_method(self, node: ast.Call, scope: Scope) -> bool:
        if not isinstance(node.func, ast.Attribute):
            return False
        if node.func.attr == "fromkeys":
            found = self._names.resolve(node.func.value, scope)
            return found is not None and found.value is dict
        return node.func.attr in ("join", "extend", "extendleft", "writelines")

    def _excuse(self, node: ast.expr) -> None:
        """The order of what this is made of does not matter, unless it takes decisions."""
        if isinstance(node, Comprehension):
            if not self._decides(node):
                self._excused.add(id(node))
                for generator in node.generators:
                    self._excuse(generator.iter)
        elif isinstance(node, ast.Starred):
            self._excused.add(id(node))
        elif isinstance(node, ast.Call) and _last_name(node.func) in _PASSING_ON:
            self._excused.add(id(node))
            for argument in node.args:
                self._excuse(argument)

    def _decides(self, node: ast.AST) -> bool:
        """Whether evaluating this may take decisions, whose order is always of importance."""
        for child in ast.walk(node):
            if isinstance(child, ast.Await):
                return True
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
                base = child.func.value
                if child.func.attr in _TASK_MAKERS or (
                    isinstance(base, ast.Name) and base.id == self._context
                ):
                    return True
        return False

    def _if_unordered(self, node: ast.expr, scope: Scope) -> Iterator[ast.expr]:
        if self.is_unordered(node, scope):
            yield node

    # --- what is a set

    def is_unordered(self, node: ast.expr, scope: Scope) -> bool:
        """Whether an expression is surely a set, and one whose order differs."""
        match node:
            case ast.Set(elts=elements):
                plain = all(_is_number(each) or self._is_task(each, scope) for each in elements)
                return not plain and (len(elements) > 1 or isinstance(elements[0], ast.Starred))
            case ast.SetComp(elt=element):
                return not self._is_task(element, scope)
            case ast.Call():
                return self._call_is_unordered(node, scope)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _SET_OPERATORS):
                return any(
                    _is_view(side) or self.is_unordered(side, scope) for side in (left, right)
                )
            case ast.IfExp(body=one, orelse=other):
                return any(self.is_unordered(each, scope) for each in (one, other))
            case ast.BoolOp(values=values):
                return any(self.is_unordered(each, scope) for each in values)
            case ast.NamedExpr(value=value):
                return self.is_unordered(value, scope)
            case ast.Name(id=name) if (where := scope.find(name)) is not None:
                return self._local_is_unordered(name, where)
            case ast.Name() | ast.Attribute():
                return self._known_is_unordered(node, scope)
        return False

    def _call_is_unordered(self, node: ast.Call, scope: Scope) -> bool:
        function = self._function(node.func, scope)
        if function in _SETS:
            return not node.args or not (
                self._are_tasks(node.args[0], scope) or self._is_range(node.args[0], scope)
            )
        if function is all_tasks:
            return True
        return (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in _SET_METHODS
            and self.is_unordered(node.func.value, scope)
        )

    def _local_is_unordered(self, name: str, scope: Scope) -> bool:
        annotation = scope.annotations.get(name)
        if annotation is not None:
            return _is_set_annotation(expression(annotation))
        if not self._always(name, scope, "set", lambda each: self.is_unordered(each, scope)):
            return False
        added = list(_added_to(name, scope.node))
        return not added or not all(self._is_task(each, scope) for each in added)

    def _always(
        self, name: str, scope: Scope, what: str, holds: Callable[[ast.expr], bool]
    ) -> bool:
        """Whether something holds of every expression that a name is bound to."""
        key = (what, id(scope), name)
        if key in self._under_way:
            return True  # `x = x | y`: it depends on the other bindings
        self._under_way.add(key)
        try:
            return all(isinstance(each, ast.expr) and holds(each) for each in scope.bound[name])
        finally:
            self._under_way.remove(key)

    def _known_is_unordered(self, node: ast.expr, scope: Scope) -> bool:
        found = self._names.resolve(node, scope)
        if found is not None and isinstance(found.value, set | frozenset):
            fixed = isinstance(found.value, frozenset)
            return not all(isinstance(each, _NUMBERS) for each in found.value) and not (
                fixed and len(found.value) < 2
            )
        if isinstance(node, ast.Attribute) and (found is None or found.value is UNKNOWN):
            base = self._names.resolve(node.value, scope)
            if base is not None and base.kind is not None:
                return _is_set_type(_field_type(base.kind, node.attr))
        return False

    def _function(self, node: ast.expr, scope: Scope) -> Any:
        found = self._names.resolve(node, scope)
        known = found is not None and isinstance(
            found.value, type | FunctionType | BuiltinFunctionType
        )
        return found.value if known and found is not None else None

    # --- what a set holds

    def _is_task(self, node: ast.expr, scope: Scope) -> bool:
        if isinstance(node, ast.Call):
            return _last_name(node.func) in _TASK_MAKERS
        if isinstance(node, ast.Name) and (where := scope.find(node.id)) is not None:
            # A loop over tasks may have used the name too, so one such value will do.
            return any(
                isinstance(each, ast.Call) and self._is_task(each, where)
                for each in where.bound[node.id]
            )
        return False

    def _are_tasks(self, node: ast.expr, scope: Scope) -> bool:
        match node:
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                return self._is_task(element, scope)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return bool(elements) and all(self._is_task(each, scope) for each in elements)
            case ast.Name(id=name) if (where := scope.find(name)) is not None:
                added = list(_added_to(name, where.node))
                return all(self._is_task(each, where) for each in added) and self._always(
                    name,
                    where,
                    "tasks",
                    lambda each: self._are_tasks(each, where) or (bool(added) and _is_empty(each)),
                )
        return False

    def _is_range(self, node: ast.expr, scope: Scope) -> bool:
        return isinstance(node, ast.Call) and self._function(node.func, scope) is range


def _added_to(name: str, node: ast.AST) -> Iterator[ast.expr]:
    """What is put into a collection one by one: `name.add(…)`, `name.append(…)`."""
    for child in ast.walk(node):
        match child:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=holder), attr="add" | "append"), args=[element]
            ) if holder == name:
                yield element


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.List) and not node.elts


def _is_view(node: ast.expr) -> bool:
    """Whether it is `d.keys()` or `d.items()`: an operator makes a set of it."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("keys", "items")
        and not node.args
    )


def _is_set_annotation(node: ast.expr) -> bool:
    """Whether an annotation names a set, and not one of tasks or numbers."""
    name, held = node, node
    if isinstance(node, ast.Subscript):
        name, held = node.value, node.slice
    held_names = set(_names_in(held))
    in_order = bool(held_names & _TASK_NAMES) or held_names <= _NUMBER_NAMES
    return _last_name(name) in _SET_ANNOTATION and not in_order


def _names_in(node: ast.AST) -> Iterator[str]:
    name = _last_name(node)
    if name is not None:
        yield name
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names_in(child)


def _last_name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def _field_type(kind: type, name: str) -> Any:
    """The declared type of a model's or dataclass's field, or None."""
    fields = getattr(kind, "model_fields", None)
    if isinstance(fields, dict) and name in fields:
        return fields[name].annotation
    try:
        return get_type_hints(kind).get(name)
    except Exception:  # a name that cannot be resolved here, by whatever error
        return None


def _is_set_type(type_: Any) -> bool:
    origin = getattr(type_, "__origin__", type_)
    arguments = getattr(type_, "__args__", ())
    return (
        isinstance(origin, type)
        and issubclass(origin, AbstractSet)
        and not (arguments and all(each in (*_NUMBERS, bool) for each in arguments))
    )
