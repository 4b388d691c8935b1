"""What a saga may not call, and what to use instead: tables of dotted names.

The names are those of the documentation; an alias or a `from` import of the same object is found
by its identity.
"""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Final, NamedTuple

from amends.sagas.as_completed import is_original
from amends.sagas.lint_names import UNKNOWN, Resolved


class Rule(NamedTuple):
    """Why something is refused, and what to use instead."""

    what: str
    instead: str
    arguments_min: int = 0
    """With so many arguments a call is harmless; 0: it never is."""


_CLOCK: Final = Rule("reads the clock", "ctx.now()")
_ENTROPY: Final = Rule("is different on every replay", "ctx.random")
_UUID: Final = Rule("is different on every replay", "ctx.uuid()")
_SECRET: Final = Rule(
    "is different on every replay", "ctx.random, or an activity for what must stay secret"
)
_SHARED: Final = Rule(
    "is shared by all sagas of the process, so its state differs on a replay", "ctx.random"
)
_IO: Final = Rule("reaches outside the saga", "await ctx.do(...) with an activity")
THREADS: Final = Rule(
    "starts a thread or a process", "an activity; a plain `def` runs in a thread there"
)
_LOCKS: Final = Rule("blocks the thread that runs all sagas", "its namesake in asyncio")
_SLEEP: Final = Rule("blocks the thread", "await asyncio.sleep(...), a durable timer")
_INPUT: Final = Rule("differs between processes", "the saga's input, where the saga is started")
_LOOP: Final = Rule("starts another event loop", "await, or asyncio.create_task(...)")

_GROUPS: Final[tuple[tuple[Rule, str], ...]] = (
    (
        _CLOCK,
        """
        time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter
        time.perf_counter_ns time.process_time time.process_time_ns time.thread_time
        time.thread_time_ns time.clock_gettime time.clock_gettime_ns
        datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today
        arrow.now arrow.utcnow pendulum.now pendulum.today pendulum.tomorrow pendulum.yesterday
        django.utils.timezone.now django.utils.timezone.localdate django.utils.timezone.localtime
        """,
    ),
    (
        _CLOCK._replace(arguments_min=1),
        "time.gmtime time.localtime time.ctime time.asctime",
    ),
    (_CLOCK._replace(arguments_min=2), "time.strftime"),
    (
        _ENTROPY,
        """
        random.betavariate random.binomialvariate random.choice random.choices random.expovariate
        random.gammavariate random.gauss random.getrandbits random.lognormvariate
        random.normalvariate random.paretovariate random.randbytes random.randint random.random
        random.randrange random.sample random.seed random.shuffle random.triangular random.uniform
        random.vonmisesvariate random.weibullvariate random.getstate random.setstate
        numpy.random.choice numpy.random.normal numpy.random.permutation numpy.random.rand
        numpy.random.randint numpy.random.randn numpy.random.random numpy.random.shuffle
        numpy.random.uniform
        """,
    ),
    (
        _ENTROPY._replace(arguments_min=1),
        "random.Random numpy.random.default_rng numpy.random.RandomState",
    ),
    (_UUID, "uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 uuid.getnode"),
    (_UUID._replace(arguments_min=3), "uuid.uuid8"),
    (_SECRET, "random.SystemRandom os.urandom os.getrandom ssl.RAND_bytes"),
    (_SLEEP, "time.sleep"),
    (_IO, "builtins.open io.open io.open_code webbrowser.open"),
    (Rule("waits for the keyboard", "a signal: await ctx.receive(...)"), "builtins.input"),
    (
        Rule("waits for the keyboard", "a signal: await ctx.receive(...)"),
        "sys.stdin getpass.getpass",
    ),
    (
        _IO,
        """
        os.access os.chdir os.chmod os.chown os.link os.listdir os.lstat os.makedirs os.mkdir
        os.mkfifo os.open os.pipe os.read os.readlink os.remove os.removedirs os.rename os.renames
        os.replace os.rmdir os.scandir os.sendfile os.stat os.statvfs os.symlink os.truncate
        os.unlink os.utime os.walk os.fwalk os.write os.path.exists os.path.lexists
        os.path.getatime os.path.getctime os.path.getmtime os.path.getsize os.path.isdir
        os.path.isfile os.path.islink os.path.ismount os.path.realpath os.path.samefile
        os.path.abspath os.path.expanduser os.kill os.killpg os.system os.popen os.startfile
        """,
    ),
    (
        THREADS,
        """
        os.fork os.forkpty os.execl os.execle os.execlp os.execlpe os.execv os.execve os.execvp
        os.execvpe os.posix_spawn os.posix_spawnp os.spawnl os.spawnle os.spawnlp os.spawnlpe
        os.spawnv os.spawnve os.spawnvp os.spawnvpe
        threading.Thread threading.Timer _thread.start_new_thread
        asyncio.to_thread asyncio.run_coroutine_threadsafe asyncio.create_subprocess_exec
        asyncio.create_subprocess_shell anyio.to_thread.run_sync asgiref.sync.sync_to_async
        starlette.concurrency.run_in_threadpool fastapi.concurrency.run_in_threadpool
        """,
    ),
    (
        _LOCKS,
        """
        threading.Lock threading.RLock threading.Condition threading.Event threading.Semaphore
        threading.BoundedSemaphore threading.Barrier queue.Queue queue.LifoQueue
        queue.PriorityQueue queue.SimpleQueue
        """,
    ),
    (
        _IO,
        """
        asyncio.open_connection asyncio.open_unix_connection asyncio.start_server
        asyncio.start_unix_server
        """,
    ),
    (_LOOP, "asyncio.run asyncio.Runner asyncio.new_event_loop asyncio.set_event_loop anyio.run"),
    (
        _INPUT,
        """
        os.environ os.environb os.getenv os.getenvb os.putenv os.unsetenv os.getpid os.getppid
        os.getcwd os.getcwdb os.getlogin os.getuid os.geteuid os.uname os.cpu_count
        os.process_cpu_count os.getloadavg os.path.expandvars platform.node platform.uname
        platform.platform getpass.getuser threading.get_ident threading.get_native_id
        threading.current_thread multiprocessing.cpu_count
        """,
    ),
    (
        Rule("differs between processes for strings", "zlib.crc32 or hashlib, the same everywhere"),
        "builtins.hash",
    ),
    (Rule("is an address in memory", "a key of your own, or `is`"), "builtins.id"),
)

_AS_COMPLETED: Final = Rule(
    "was imported before Amends gave it an order, and starts its tasks in any",
    "asyncio.as_completed(...), through the module",
)

_RULES: Final = {name: rule for rule, names in _GROUPS for name in names.split()}

#: Packages and modules of which every function, and every class but exceptions, is refused.
_ROOTS: Final[dict[str, Rule]] = {
    **dict.fromkeys(("secrets",), _SECRET),
    **dict.fromkeys(("concurrent.futures", "multiprocessing", "subprocess"), THREADS),
    **dict.fromkeys(
        """
        socket _socket ssl select selectors socketserver http.client http.server urllib.request
        ftplib imaplib nntplib poplib smtplib telnetlib syslog shutil tempfile glob sqlite3 dbm
        shelve requests httpx aiohttp urllib3 websockets websocket paramiko psycopg psycopg2
        asyncpg pymysql aiosqlite redis pymongo motor boto3 botocore aiofiles grpc aio_pika pika
        """.split(),  # noqa: SIM905 - words read better in lines than in a column
        _IO,
    ),
}

#: Below those roots, but plain computing.
_HARMLESS: Final = frozenset(
    """
    secrets.compare_digest httpx.URL httpx.Headers httpx.QueryParams httpx.Timeout
    socket.inet_aton socket.inet_ntoa socket.inet_pton socket.inet_ntop
    socket.htonl socket.htons socket.ntohl socket.ntohs
    subprocess.list2cmdline glob.escape glob.has_magic glob.translate
    """.split()  # noqa: SIM905
)

#: Methods of pathlib.Path that reach outside; `pathlib._local` is where 3.13 has the class.
_PATH_IO: Final = re.compile(
    r"""
    pathlib(\._\w+)?\.Path\.(
    absolute|chmod|copy|copy_into|cwd|exists|expanduser|glob|group|hardlink_to|home|is_block_device
    |is_char_device|is_dir|is_fifo|is_file|is_junction|is_mount|is_socket|is_symlink|iterdir|lchmod
    |lstat|mkdir|move|move_into|open|owner|read_bytes|read_text|readlink|rename|replace|resolve
    |rglob|rmdir|samefile|stat|symlink_to|touch|unlink|walk|write_bytes|write_text)
    """,
    re.VERBOSE,
)
_FUNCTIONS: Final = (FunctionType, BuiltinFunctionType, MethodType)


class Judge:
    """Says which rule, if any, an expression of saga code breaks."""

    def __init__(self) -> None:
        # Made anew for every lint: modules come late, and tests replace functions in them.
        self._name_by_id = dict(_objects_of_rules())

    def rule_for(self, target: Resolved, call: ast.Call | None) -> tuple[str, Rule] | None:
        """The rule that is broken by naming `target`, or by calling it, and the name it stands
        under; None if none is.
        """
        if is_original(target.value):
            return "as_completed", _AS_COMPLETED
        names = (*target.names, self._name_by_id.get(id(target.value), ""))
        if any(name in _HARMLESS for name in names):
            return None
        for name in names:
            rule = _RULES.get(name)
            if rule is not None:
                return (name, rule) if _breaks(rule, name, target, call) else None
        if call is None and not isinstance(target.value, _FUNCTIONS):
            return None
        if isinstance(target.owner, random.Random):
            return "", _SHARED
        for name in names:
            rule = _IO if _PATH_IO.fullmatch(name) else _root_rule(name)
            if rule is not None and not _is_exception(target.value):
                return name, rule
        return None


def _objects_of_rules() -> Iterator[tuple[int, str]]:
    for name in _RULES:
        module_name, _, attribute = name.rpartition(".")
        module = sys.modules.get(module_name)
        value = None if module is None else vars(module).get(attribute)
        if value is not None:
            yield id(value), name


def _breaks(rule: Rule, name: str, target: Resolved, call: ast.Call | None) -> bool:
    if call is not None:
        starred = any(isinstance(each, ast.Starred) for each in call.args)
        return not rule.arguments_min or not (
            starred or len(call.args) + len(call.keywords) >= rule.arguments_min
        )
    if rule.arguments_min or isinstance(target.value, type):
        return False
    # Of what was not found, only the spelling says whether it is a class.
    return target.value is not UNKNOWN or name.rpartition(".")[2][0].islower()


def _root_rule(name: str) -> Rule | None:
    parts = name.split(".")
    for length in (1, 2):
        rule = _ROOTS.get(".".join(parts[:length]))
        if rule is not None and len(parts) > length:
            return rule
    return None


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
