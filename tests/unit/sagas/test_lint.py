"""The lint finds what a replay could not repeat, whatever it is called, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib.util
import inspect
import linecache
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.errors import NotAllowedInSaga
from amends.sagas import as_completed
from amends.sagas.lint import Finding, check_source, lint
from tests.unit.sagas import innocent

PRELUDE = """\
from __future__ import annotations
import asyncio, builtins, concurrent.futures, contextlib, datetime as dt, functools, glob, io
import os, os.path, platform, queue, random, secrets, shutil, socket, sqlite3, ssl, string
import subprocess, sys, tempfile, threading, time, urllib.parse, urllib.request, uuid, weakref
import multiprocessing, http.client, itertools, collections, dataclasses
from datetime import date, datetime, timedelta
from os import environ, urandom as noise
from pathlib import Path
from random import Random, choice
from time import time as t
from uuid import uuid4
RNG = Random(3)
WORDS = {"a", "b"}
NAMES = frozenset(WORDS)
"""


class Load(Protocol):
    def __call__(self, source: str, package: str = "") -> Any: ...


@pytest.fixture(autouse=True)
def repaired() -> None:
    as_completed.install()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Makes a module of a source on disk."""
    names = iter(f"amends_lint_{number}" for number in range(100))

    def load(source: str, package: str = "") -> Any:
        name = next(names)
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(package + name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package + name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in [name for name in sys.modules if "amends_lint_" in name]:
        del sys.modules[name]


def saga_source(body: str, prelude: str = PRELUDE) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"{prelude}async def saga(ctx, order: Order):\n{lines}\n    return order\nOrder = str\n"


def found_in(load: Load, body: str, prelude: str = PRELUDE) -> list[Finding]:
    return lint(load(saga_source(body, prelude)).saga)


#: What is found, what to use instead, and the twin that is innocent.
PAIRS = [
    # the clock
    ("time.time()", "ctx.now()", "time.gmtime(0)"),
    ("t()", "ctx.now()", "t = order.upper\nt()"),
    ("time.monotonic_ns()", "ctx.now()", "asyncio.get_running_loop().time()"),
    ("time.perf_counter()", "ctx.now()", "order.perf_counter()"),
    ("time.gmtime()", "ctx.now()", "time.gmtime(86400)"),
    ("time.strftime('%Y')", "ctx.now()", "time.strftime('%Y', ctx.now().timetuple())"),
    ("datetime.now()", "ctx.now()", "ctx.now()"),
    ("dt.datetime.now(dt.UTC)", "ctx.now()", "dt.datetime.fromtimestamp(0, dt.UTC)"),
    ("datetime.utcnow()", "ctx.now()", "datetime.min"),
    ("datetime.today()", "ctx.now()", "datetime(2030, 1, 1)"),
    ("date.today()", "ctx.now()", "date(2030, 1, 1)"),
    ("clock = time.time\nclock()", "ctx.now()", "clock = ctx.now\nclock()"),
    ("sorted([1], key=lambda _: time.time())", "ctx.now()", "sorted([1], key=lambda time: time)"),
    # entropy
    ("random.random()", "ctx.random", "ctx.random.random()"),
    ("choice([1, 2])", "ctx.random", "ctx.random.choice([1, 2])"),
    ("random.shuffle([1])", "ctx.random", "Random(order).shuffle([1])"),
    ("Random()", "ctx.random", "Random(order)"),
    ("RNG.random()", "ctx.random", "rng = Random(1)\nrng.random()"),
    ("random.SystemRandom()", "ctx.random", "isinstance(order, random.SystemRandom)"),
    ("uuid4()", "ctx.uuid()", "uuid.uuid5(uuid.NAMESPACE_DNS, order)"),
    ("uuid.uuid1()", "ctx.uuid()", "uuid.UUID(int=1)"),
    ("list(map(str, iter(uuid4, None)))", "ctx.uuid()", "list(map(str, iter(ctx.uuid, None)))"),
    ("os.urandom(8)", "ctx.random", "order.encode()"),
    ("noise(8)", "ctx.random", "noise = len\nnoise(order)"),
    ("secrets.token_hex()", "ctx.random", "secrets.compare_digest(order, order)"),
    # I/O
    ("open('x')", "ctx.do", "order.open('x')"),
    ("with io.open('x') as f: pass", "ctx.do", "io.StringIO('x')"),
    ("input()", "ctx.receive", "input = len\ninput(order)"),
    ("os.listdir('.')", "ctx.do", "os.path.join('a', 'b')"),
    ("os.path.exists(order)", "ctx.do", "os.path.basename(order)"),
    ("os.system('true')", "ctx.do", "os.fspath(order)"),
    ("subprocess.run(['true'])", "activity", "isinstance(order, subprocess.CompletedProcess)"),
    ("socket.create_connection(('h', 1))", "ctx.do", "socket.AF_INET"),
    ("socket.socket()", "ctx.do", "socket.gaierror('unknown')"),
    ("urllib.request.urlopen(order)", "ctx.do", "urllib.parse.urlsplit(order)"),
    ("http.client.HTTPConnection('h')", "ctx.do", "http.client.HTTPException()"),
    ("sqlite3.connect(order)", "ctx.do", "sqlite3.IntegrityError()"),
    ("shutil.rmtree(order)", "ctx.do", "order.rmtree"),
    ("tempfile.mkdtemp()", "ctx.do", "order.mkdtemp()"),
    ("glob.glob('*')", "ctx.do", "glob.escape('*')"),
    ("Path(order).read_text()", "ctx.do", "Path(order).name"),
    ("p = Path(order)\np.exists()", "ctx.do", "p = Path(order)\np.with_name('x')"),
    ("Path.cwd()", "ctx.do", "Path('/x').joinpath('y')"),
    ("async def f(p: Path): p.unlink()", "ctx.do", "async def f(p: Path): p.is_absolute()"),
    ("await asyncio.open_connection('h', 1)", "ctx.do", "await asyncio.sleep(1)"),
    ("await asyncio.start_server(len)", "ctx.do", "asyncio.create_task(ctx.do())"),
    ("await asyncio.create_subprocess_exec('x')", "activity", "await asyncio.gather(ctx.do())"),
    # waiting and threads
    ("time.sleep(1)", "asyncio.sleep", "await asyncio.sleep(1)"),
    ("threading.Thread(target=len)", "activity", "asyncio.ensure_future(ctx.do())"),
    ("threading.Lock()", "asyncio", "asyncio.Lock()"),
    ("queue.Queue()", "asyncio", "asyncio.Queue()"),
    ("concurrent.futures.ThreadPoolExecutor()", "activity", "concurrent.futures.FIRST_COMPLETED"),
    ("multiprocessing.Process()", "activity", "multiprocessing.TimeoutError()"),
    ("await asyncio.to_thread(len)", "activity", "await asyncio.wait_for(ctx.do(), 3)"),
    (
        "loop = asyncio.get_running_loop()\nawait loop.run_in_executor(None, len)",
        "activity",
        "loop = asyncio.get_running_loop()\nloop.create_task(ctx.do())",
    ),
    ("asyncio.run(ctx.do())", "await", "await ctx.do()"),
    # the process
    ("os.environ['HOME']", "input", "{}['HOME']"),
    ("os.environ.get('HOME')", "input", "order.environ.get('HOME')"),
    ("environ['HOME']", "input", "environ = {}\nenviron['HOME']"),
    ("os.getenv('HOME')", "input", "order.getenv('HOME')"),
    ("os.getpid()", "input", "os.sep"),
    ("platform.node()", "input", "order.node()"),
    ("hash(order)", "zlib", "import zlib\nzlib.crc32(order)"),
    ("sorted([order], key=id)", "key", "sorted([order], key=len)"),
    ("{'id': id(order)}", "key", "{'id': order.id, 'hash': order.hash()}"),
    # the order of sets
    ("for x in {order, 'a'}: pass", "sorted", "for x in (order, 'a'): pass"),
    ("for x in {'a', 'b'}: pass", "sorted", "for x in {1, 2}: pass"),
    ("for x in set(order): pass", "sorted", "for x in sorted(set(order)): pass"),
    ("for x in frozenset(order): pass", "sorted", "for x in dict.fromkeys(order): pass"),
    ("s = set()\nfor x in s: pass", "sorted", "s = set()\nfor x in sorted(s): pass"),
    ("s = {x for x in order}\nlist(s)", "sorted", "s = {x for x in order}\nlen(s)"),
    ("s = set(order)\n[x for x in s]", "sorted", "s = set(order)\n{x for x in s}"),
    ("s = set(order)\n{x: 1 for x in s}", "sorted", "s = set(order)\nall(x for x in s)"),
    ("s = set(order)\ns.pop()", "sorted", "s = list(order)\ns.pop()"),
    ("s = set(order)\n','.join(s)", "sorted", "s = set(order)\n','.join(sorted(s))"),
    ("s = set(order)\n[].extend(s)", "sorted", "s = set(order)\nset().update(s)"),
    ("s = set(order)\nenumerate(s)", "sorted", "s = set(order)\nenumerate(sorted(s))"),
    ("s = set(order)\nnext(iter(s))", "sorted", "s = set(order)\nmin(s)"),
    ("s = set(order)\nprint([*s])", "sorted", "s = set(order)\nprint(*s)"),
    ("s = set(order)\na, b = s", "sorted", "s = set(order)\n(a,) = s"),
    ("s = set(order)\ndict.fromkeys(s)", "sorted", "s = set(order)\n'a' in s"),
    ("s = set(order)\ntuple(s | {'a'})", "sorted", "s = set(order)\nsorted(s | {'a'})"),
    ("s = set(order)\nlist(s.union('a'))", "sorted", "s = set(order)\nlen(s.union('a'))"),
    ("s = set()\ns = s | {'a'}\nlist(s)", "sorted", "s = set()\ns = sorted(s)\nlist(s)"),
    ("for x in {}.keys() - {'a'}: pass", "sorted", "for x in {}.keys(): pass"),
    ("for x in WORDS: pass", "sorted", "'a' in WORDS"),
    ("for x in NAMES: pass", "sorted", "WORDS = [1]\nfor x in WORDS: pass"),
    ("s: set[str] = order\nlist(s)", "sorted", "s: set[int] = order\nlist(s)"),
    ("s: set[int | str] = order\nlist(s)", "sorted", "s: set[uuid.UUID] = order\nlist(s)"),
    ("s: set = order\nlist(s)", "sorted", "s: set[asyncio.Task[str]] = order\nlist(s)"),
    ("def f(s: set[str]): return list(s)", "sorted", "def f(s: list[str]): return list(s)"),
    ("for x in asyncio.all_tasks(): pass", "sorted", "len(asyncio.all_tasks())"),
    (
        "s = set(order)\nsorted([await ctx.do(x) for x in s])",
        "sorted",
        "s = set(order)\nsorted([x.upper() for x in s])",
    ),
    (
        "s = set(order)\nawait asyncio.wait({asyncio.create_task(ctx.do(x)) for x in s})",
        "sorted",
        "s = sorted(order)\nawait asyncio.wait({asyncio.create_task(ctx.do(x)) for x in s})",
    ),
    (
        "s = set()\ns.add(order)\nfor x in s: pass",
        "sorted",
        "s = set()\ns.add(asyncio.create_task(order))\nfor x in s: pass",
    ),
]


@pytest.mark.parametrize(("body", "instead"), [pair[:2] for pair in PAIRS])
def test_it_is_found(load: Load, body: str, instead: str) -> None:
    (finding,) = found_in(load, body)
    assert instead in finding.instead
    # Whatever is wrong is wrong in the last line of these examples, or is an alias made there.
    last = PRELUDE.count("\n") + 1 + len(body.splitlines())
    assert finding.line == last or body.startswith("clock")


@pytest.mark.parametrize("body", [pair[2] for pair in PAIRS])
def test_its_innocent_twin_is_not(load: Load, body: str) -> None:
    assert found_in(load, body) == []


# --- how names are found


@pytest.mark.parametrize(
    "body",
    [
        "import time\ntime.time()",
        "import time as clock\nclock.time()",
        "from time import time as clock\nclock()",
        "import datetime\ndatetime.datetime.now()",
        "import os.path\nos.getpid()",
        "d = datetime\nd.now()",
        "def inner():\n    return [time.time() for _ in range(3)]",
        "class Inner:\n    at = time.time()",
        "def inner(at=time.time()): ...",
        "f'{time.time()}'",
        "await (lambda: time.time())()",
        "match order:\n    case 'a' if time.time(): ...",
        "if (now := time.time()): ...",
        "@functools.lru_cache(time.time())\ndef f(): ...",
        "async with asyncio.timeout(time.time()): ...",
        "import no_such_module_anywhere.random\nfrom secrets import token_hex as x\nx()",
    ],
)
def test_it_is_found_wherever_it_stands(load: Load, body: str) -> None:
    assert len(found_in(load, body)) == 1


def test_a_client_that_is_not_installed_is_known_by_its_name(load: Load) -> None:
    (finding,) = found_in(load, "import requests\nrequests.get('http://host')")
    assert "`requests.get` reaches outside" in finding.what


def test_an_object_in_a_global_is_known_by_its_class(load: Load) -> None:
    prelude = PRELUDE + "LINK = http.client.HTTPConnection('localhost')\nget = LINK.request\n"
    assert len(found_in(load, "LINK.request('GET', '/')", prelude)) == 1
    assert len(found_in(load, "get('GET', '/')", prelude)) == 1
    assert found_in(load, "LINK.host", prelude) == []


def test_a_subclass_does_not_hide_the_clock(load: Load) -> None:
    prelude = PRELUDE + "class Moment(datetime): pass\n"
    assert len(found_in(load, "Moment.now()", prelude)) == 1


def test_variables_of_the_function_around_are_known(load: Load) -> None:
    module = load(
        "import time\n"
        "def make(clock, names):\n"
        "    async def saga(ctx, order):\n"
        "        await ctx.do(clock())\n"
        "        for name in names: await ctx.do(name)\n"
        "    return saga\n"
    )
    assert [found.line for found in lint(module.make(time_of_day, {"a", "b"}))] == [4, 5]
    assert lint(module.make(len, ["a", "b"])) == []


time_of_day = __import__("time").time


def test_a_set_in_a_model_is_known_by_the_models_annotations(load: Load) -> None:
    prelude = PRELUDE + (
        "from pydantic import BaseModel\n"
        "class Model(BaseModel):\n    tags: set[str]\n    sizes: frozenset[int]\n    names: list[str]\n"
        "@dataclasses.dataclass\nclass Data:\n    tags: set[str]\n    names: list[str]\n"
    )
    for kind in ("Model", "Data", "'Model'"):
        assert len(found_in(load, f"def f(x: {kind}): return list(x.tags)", prelude)) == 1
        assert found_in(load, f"def f(x: {kind}): return list(x.names)", prelude) == []
    assert found_in(load, "def f(x: Model): return list(x.sizes)", prelude) == []


def test_the_original_as_completed_is_found(load: Load) -> None:
    prelude = PRELUDE + "as_completed = None\n"
    module = load(saga_source("for x in as_completed([]): await x", prelude))
    module.as_completed = inspect.unwrap(asyncio.as_completed)
    (finding,) = lint(module.saga)
    assert "asyncio.as_completed" in finding.instead
    assert found_in(load, "for x in asyncio.as_completed([]): await x") == []
    assert found_in(load, "from asyncio import as_completed as a\nfor x in a([]): await x") == []


# --- functions that the saga calls


def test_functions_of_the_same_package_are_read_too(load: Load) -> None:
    helper = load("import time\ndef late():\n    return time.time()\n", package="shop.")
    prelude = (
        "import functools\n"
        "from contextlib import contextmanager\n"
        f"from {helper.__name__} import late\n"
        "def direct(): return indirect()\n"
        "def indirect(): return direct() and hash('x')\n"
        "@functools.cache\ndef cached(): return id(cached)\n"
        "@contextmanager\ndef managed():\n    yield input()\n"
        "class Order:\n    def total(self): return hash(self)\n"
    )
    body = "late()\ndirect()\ncached()\nwith managed(): ...\norder.total()"
    source = saga_source(body, prelude).replace("Order = str\n", "")
    findings = lint(load(source, package="shop.").saga)
    functions = ["late", "cached", "managed", "Order.total", "indirect"]
    assert [found.function for found in findings] == functions
    assert findings[0].file == helper.__file__


def test_what_the_saga_only_names_is_not_read(load: Load) -> None:
    prelude = PRELUDE + "def withdraw(cmd):\n    return time.time()\n"
    assert found_in(load, "await ctx.do(withdraw, order)", prelude) == []


def test_libraries_are_not_read(load: Load) -> None:
    assert found_in(load, "string.capwords(order)\nfunctools.reduce(len, [])") == []


# --- silence


@pytest.mark.parametrize(
    "body",
    [
        "time.time()  # amends: deterministic",
        "for x in {order, 'a'}:  # amends: deterministic\n    pass",
        "order.join(\n    set(order)\n)  # amends: deterministic\nlen(\n    WORDS\n)",
        "x = sorted([\n    time.time(),  #amends:deterministic, since frozen\n])",
        "def inner():  # amends: deterministic\n    time.time()\n    return id(order)",
    ],
)
def test_a_comment_silences_it(load: Load, body: str) -> None:
    found = found_in(load, body)
    assert found == [] or "join" in body


def test_a_comment_silences_its_own_line_only(load: Load) -> None:
    assert len(found_in(load, "time.time()\ntime.time()  # amends: deterministic")) == 1
    assert len(found_in(load, "time.time()  # amends: something else")) == 1


def test_a_comment_at_the_def_silences_the_function(load: Load) -> None:
    source = saga_source("def f():\n    return time.time()\nreturn f() + id(order)")
    head = "async def saga(ctx, order: Order):"
    assert lint(load(source.replace(head, f"{head}  # amends: deterministic")).saga) == []


# --- sources of every shape


def test_indentation_and_strings_at_the_margin_do_not_matter(load: Load) -> None:
    module = load(
        'import time\nclass Sagas:\n    @staticmethod\n    async def saga(ctx):\n        """\nText.\n"""\n'
        "        return time.time()\n"
    )
    (finding,) = lint(module.Sagas.saga)
    assert (finding.line, finding.column, finding.function) == (8, 16, "Sagas.saga")


def test_a_function_without_source_has_no_findings() -> None:
    namespace: dict[str, Any] = {}
    exec("import time\nasync def saga(ctx): return time.time()", namespace)
    assert lint(namespace["saga"]) == []
    assert lint(len) == []
    assert lint(functools.partial(namespace["saga"])) == []
    assert lint(lambda: id(0)) == []


def test_a_source_that_changed_on_disk_does_no_harm(load: Load) -> None:
    saga = load(saga_source("time.time()")).saga
    Path(saga.__code__.co_filename).write_text("nothing (\n" * 40)
    linecache.checkcache()
    assert lint(saga) == []


def test_a_source_nested_beyond_reason_does_no_harm(load: Load) -> None:
    assert found_in(load, "x = " + "+".join(["order"] * 900)) == []


def test_no_function_of_the_standard_library_upsets_it() -> None:
    for module in (ast, functools, random, importlib.util, linecache):
        for value in vars(module).values():
            if callable(value):
                assert isinstance(lint(value), list)


# --- registration


def test_registration_is_refused_with_every_line_and_what_to_use_instead(load: Load) -> None:
    module = load(
        saga_source("now = time.time()\nsleeper()", PRELUDE + "def sleeper():\n    input()\n")
    )
    with pytest.raises(NotAllowedInSaga) as caught:
        check_source(module.saga)
    text, line = str(caught.value), PRELUDE.count("\n") + 4
    assert f"{module.__file__}:{line}: `time.time` reads the clock. Use instead: ctx.now()" in text
    assert f"{module.__file__}:{line - 2}: `input`" in text
    assert "(in sleeper)" in text
    assert "# amends: deterministic" in text


def test_registration_of_a_clean_saga_goes_through(load: Load) -> None:
    check_source(load(saga_source("await ctx.do(order)")).saga)


# --- no false alarms


@pytest.mark.parametrize("saga", innocent.SAGAS, ids=lambda saga: saga.__name__)
def test_ordinary_sagas_are_innocent(saga: Callable[..., Any]) -> None:
    assert lint(saga) == []


GOOD = st.sampled_from([pair[2] for pair in PAIRS])
BAD = st.sampled_from([pair[0] for pair in PAIRS if "=" not in pair[0] and "\n" not in pair[0]])
FRAMES = st.sampled_from(
    [
        "if order:\n{}",
        "while order:\n{}",
        "for each in order:\n{}",
        "try:\n{}\nfinally:\n    pass",
        "async with ctx:\n{}",
        "async def inner(ctx, order):\n{}",
        "def plain(ctx, order):\n    async def deeper():\n    {}\n    return deeper",
        "match order:\n    case [first, *_]:\n    {}",
    ]
)


def framed(frame: str, body: str) -> str:
    """The body inside the frame, indented as the frame has it."""
    before, after = frame.split("{}")
    indent = before.rpartition("\n")[2] + "    "
    lines = "\n".join(indent + line for line in body.splitlines())
    return before.rpartition("\n")[0] + "\n" + lines + after


def lint_text(text: str, folder: Path) -> list[Finding]:
    """Like `found_in`, without a file: hypothesis makes hundreds."""
    source = saga_source(text)
    name = str(folder / "generated.py")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "generated"}
    exec(compile(source, name, "exec"), namespace)
    return lint(namespace["saga"])


def apart(bodies: list[str]) -> str:
    """One after another, each in a scope of its own, so that their variables do not meet."""
    return "\n".join(
        framed(f"async def part_{number}(ctx, order):\n{{}}", body)
        for number, body in enumerate(bodies)
    )


@given(st.lists(GOOD, min_size=1, max_size=5), st.lists(FRAMES, max_size=3))
def test_innocent_lines_are_innocent_in_every_combination(
    bodies: list[str], frames: list[str]
) -> None:
    text = apart(bodies)
    for frame in frames:
        text = framed(frame, text)
    assert lint_text(text, Path("/generated")) == []


@given(st.lists(GOOD, max_size=4), BAD, st.lists(FRAMES, max_size=3))
def test_one_guilty_line_is_found_in_every_combination(
    bodies: list[str], bad: str, frames: list[str]
) -> None:
    text = apart([*bodies, bad, *bodies])
    for frame in frames:
        text = framed(frame, text)
    (finding,) = lint_text(text, Path("/generated"))
    assert saga_source(text).splitlines()[finding.line - 1].strip() == bad
