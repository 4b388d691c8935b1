"""What a name in a saga's source stands for: the real object, found without running anything.

A dotted expression is followed from its first name (a local alias, a variable of an enclosing
function, a global, a builtin) through modules, classes and instances. Attributes are looked up in
`__dict__`s only, so that neither a lazy module nor a property is set off.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Scoped = Function | ast.ClassDef | Comprehension

#: How many steps of aliases and attributes are followed.
ALIASES_MAX: Final = 12


class _Unknown:
    """Stands for an object that is known by its path or its class only."""


UNKNOWN: Final = _Unknown()


class Resolved(NamedTuple):
    """What an expression stands for."""

    value: object = UNKNOWN
    names: tuple[str, ...] = ()
    """The dotted names that it goes by: its path, and those under which it knows itself."""
    kind: type | None = None
    """Its class, where that is known and the object is not."""
    owner: object = UNKNOWN
    """The instance of which it is an attribute, if it was reached through one that exists."""


class Import(NamedTuple):
    """A name that an import statement inside the function binds."""

    module: str
    attribute: str | None


class Scope:
    """The names that one function, lambda, class or comprehension binds.

    `bound` has every expression that is assigned to a name; None stands for anything else that
    binds it: a parameter, a loop, an unpacking.
    """

    def __init__(self, node: Scoped, parent: Scope | None) -> None:
        self.node = node
        self.parent = parent
        self.bound: dict[str, list[ast.expr | Import | None]] = {}
        self.annotations: dict[str, ast.expr] = {}
        self.not_here: set[str] = set()
        self.is_global: set[str] = set()
        _collect(self)

    def bind(self, name: str, value: ast.expr | Import | None) -> None:
        """Note one more way in which a name is bound."""
        self.bound.setdefault(name, []).append(value)

    def find(self, name: str) -> Scope | None:
        """The scope inside the source that binds a name, as seen from here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.is_global:
                return None
            if (
                name in scope.bound
                and name not in scope.not_here
                and (scope is self or not isinstance(scope.node, ast.ClassDef))
            ):
                return scope
            scope = scope.parent
        return None


def _collect(scope: Scope) -> None:
    node = scope.node
    if isinstance(node, Comprehension):
        for generator in node.generators:
            _bind_target(scope, generator.target, None)
        return
    if isinstance(node, Function):
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                scope.bind(argument.arg, None)
                if argument.annotation is not None:
                    scope.annotations[argument.arg] = argument.annotation
    for child in own_nodes(node):
        _collect_one(scope, child)


def own_nodes(node: Function | ast.ClassDef) -> Iterator[ast.AST]:
    """The nodes of a body, without those inside functions and classes that it defines."""
    todo: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
    while todo:
        child = todo.pop()
        yield child
        if not isinstance(child, Function | ast.ClassDef):
            todo.extend(ast.iter_child_nodes(child))


def _collect_one(scope: Scope, node: ast.AST) -> None:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _bind_target(scope, target, value)
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
            scope.annotations[name] = annotation
            scope.bind(name, value)
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            scope.bind(name, value)
        case ast.For(target=target) | ast.AsyncFor(target=target):
            _bind_target(scope, target, None)
        case ast.withitem(optional_vars=ast.expr() as target):
            _bind_target(scope, target, None)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            scope.bind(name, None)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            scope.bind(name, None)
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            scope.bind(name, None)
        case ast.Import(names=aliases):
            for alias in aliases:
                module = alias.name if alias.asname else alias.name.partition(".")[0]
                scope.bind(alias.asname or module, Import(module, None))
        case ast.ImportFrom(module=module, names=aliases, level=level):
            for alias in aliases:
                origin = Import("." * level + (module or ""), alias.name)
                scope.bind(alias.asname or alias.name, origin)
        case ast.Global(names=names):
            scope.is_global.update(names)
        case ast.Nonlocal(names=names):
            scope.not_here.update(names)


def _bind_target(scope: Scope, target: ast.expr, value: ast.expr | None) -> None:
    if isinstance(target, ast.Name):
        scope.bind(target.id, value)
    elif isinstance(target, ast.Starred):
        _bind_target(scope, target.value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        values: list[Any] = [None] * len(target.elts)
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
            values = [None if isinstance(each, ast.Starred) else each for each in value.elts]
        for each, its_value in zip(target.elts, values, strict=True):
            _bind_target(scope, each, its_value)


class Names:
    """Resolves the expressions of one function against its globals and its closure."""

    def __init__(self, fn: FunctionType) -> None:
        self._globals: Mapping[str, object] = fn.__globals__
        self._closure: dict[str, object] = {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            try:
                self._closure[name] = cell.cell_contents
            except ValueError:  # not bound yet
                self._closure[name] = UNKNOWN

    def resolve(self, node: ast.expr, scope: Scope, depth: int = 0) -> Resolved | None:
        """What an expression stands for, or None if that cannot be said."""
        if depth > ALIASES_MAX:
            return None
        match node:
            case ast.Name(id=name):
                where = scope.find(name)
                if where is None:
                    return self._from_outside(name)
                return self._local(name, where, depth)
            case ast.Attribute(value=base, attr=attribute):
                found = self.resolve(base, scope, depth + 1)
                return None if found is None else attribute_of(found, attribute)
            case ast.Call(func=func):
                found = self.resolve(func, scope, depth + 1)
                if found is not None and isinstance(found.value, type):
                    return Resolved(kind=found.value)
        return None

    def _from_outside(self, name: str) -> Resolved | None:
        for namespace in (self._closure, self._globals):
            if name in namespace:
                value = namespace[name]
                return None if value is UNKNOWN else Resolved(value, tuple(names_of(value)))
        if hasattr(builtins, name):
            return Resolved(getattr(builtins, name), (f"builtins.{name}",))
        return None

    def _local(self, name: str, scope: Scope, depth: int) -> Resolved | None:
        found: Resolved | None = None
        if len(scope.bound[name]) == 1:
            value = scope.bound[name][0]
            if isinstance(value, Import):
                return self._imported(value)
            if value is not None:
                found = self.resolve(value, scope, depth + 1)
        if found is None and name in scope.annotations:
            found = self._annotated(scope.annotations[name], scope, depth)
        # Functions are judged where the alias is made, not at each of its uses.
        known = found is not None and (
            isinstance(found.value, ModuleType | type) or found.kind is not None
        )
        return found if known else None

    def _annotated(self, annotation: ast.expr, scope: Scope, depth: int) -> Resolved | None:
        # An annotation is read outside the function whose parameter it describes.
        found = self.resolve(expression(annotation), scope.parent or scope, depth + 1)
        if found is not None and isinstance(found.value, type):
            return Resolved(kind=found.value)
        return None

    def _imported(self, origin: Import) -> Resolved | None:
        module = origin.module
        if module.startswith("."):
            try:
                module = importlib.util.resolve_name(module, str(self._globals["__package__"]))
            except (ImportError, KeyError):
                return None
        found = Resolved(sys.modules.get(module, UNKNOWN), (module,))
        return found if origin.attribute is None else attribute_of(found, origin.attribute)


def expression(annotation: ast.expr) -> ast.expr:
    """An annotation with its quotes removed."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return annotation
    return annotation


def names_of(value: object) -> Iterator[str]:
    """The dotted names under which an object knows itself."""
    if isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, FunctionType | BuiltinMethodType | MethodType):
        owner = getattr(value, "__self__", None)
        if owner is None or isinstance(owner, ModuleType):
            yield f"{value.__module__}.{value.__qualname__}"
        else:
            # `now = datetime.now` at the top of a module, or `get = session.get`.
            kind = owner if isinstance(owner, type) else type(owner)
            yield from (f"{name}.{value.__name__}" for name in class_names(kind))


def class_names(kind: type) -> Iterator[str]:
    """The dotted names of a class and of everything it inherits from, but object."""
    for base in kind.__mro__[:-1]:
        yield f"{base.__module__}.{base.__qualname__}"


def attribute_of(found: Resolved, attribute: str) -> Resolved:
    """What `found.attribute` stands for."""
    value = found.value
    if isinstance(value, ModuleType):
        path = f"{value.__name__}.{attribute}"
        member = vars(value).get(attribute, sys.modules.get(path, UNKNOWN))
        return Resolved(member, (path, *names_of(member)))
    if isinstance(value, type):
        return _class_attribute(value, attribute)
    if found.kind is not None:
        return _class_attribute(found.kind, attribute)._replace(kind=None)
    if value is UNKNOWN:
        return Resolved(UNKNOWN, tuple(f"{name}.{attribute}" for name in found.names))
    plain = type(value).__getattribute__ is object.__getattribute__
    own = getattr(value, "__dict__", None) if plain else None
    if isinstance(own, dict) and attribute in own:
        member = own[attribute]
        return Resolved(member, tuple(names_of(member)), owner=value)
    return _class_attribute(type(value), attribute)._replace(owner=value)


def _class_attribute(kind: type, attribute: str) -> Resolved:
    names = tuple(f"{name}.{attribute}" for name in class_names(kind))
    for base in kind.__mro__:
        if attribute in base.__dict__:
            member = base.__dict__[attribute]
            if isinstance(member, staticmethod | classmethod):
                member = member.__func__
            if isinstance(member, FunctionType):
                return Resolved(member, (*names, *names_of(member)))
            # A descriptor gives something else than itself.
            return Resolved(UNKNOWN if hasattr(type(member), "__get__") else member, names)
    return Resolved(UNKNOWN, names)
