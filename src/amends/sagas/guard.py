"""The guard: an audit hook that refuses I/O while a saga runs in this thread.

Saga code is replayed, so whatever it does beside its decisions happens again on every replay, and
what it reads may be different then. Effects belong in activities. The interpreter announces most
of what touches the outside world as an *audit event* (PEP 578); while a saga's turn is running,
this hook answers those events with `NotAllowedInSaga`, raised where the saga made the call.

What it cannot see, because the interpreter raises no event for it:

- reading a clock (`time.time`, `datetime.now`) or entropy (`random`, `uuid4`, `os.urandom`);
- reading `os.environ`, and `os.stat` with everything built on it (`Path.exists`);
- sending and receiving on a socket that was connected before;
- `time.sleep` before Python 3.13 and the start of a thread before Python 3.12, where these two
  events do not exist yet.

For those there is the lint over the saga's source, and after it the comparison of every replay
with the journal.

Some I/O is not the saga's own and stays allowed: modules that are imported late, source lines
read for a traceback or a warning, log records on their way into a file, a debugger, data files
read from the libraries' own folders and time zone data, and finalizers of unrelated objects that
the garbage collector happens to run during a turn.

Audit hooks cannot be removed again (PEP 578): there is one per process, installed by the first
turn. Outside a turn it costs one look at an empty dict.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from threading import get_ident
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final

from amends.errors import NotAllowedInSaga

_ACTIVITY: Final = "do it in an activity, and await ctx.do(...)"
_INPUT: Final = "the environment is the process's own; pass the value in the saga's input"

_EFFECTS: Final = """
    open mmap.__new__ subprocess.Popen sqlite3.connect urllib.Request webbrowser.open pty.spawn
    glob.glob glob.glob/2 pathlib.Path.glob pathlib.Path.rglob pathlib.Path.walk
    tempfile.mkdtemp tempfile.mkstemp signal.pthread_kill resource.prlimit resource.setrlimit
    fcntl.fcntl fcntl.flock fcntl.ioctl fcntl.lockf
    http.client.connect http.client.send ftplib.connect ftplib.sendcmd
    imaplib.open imaplib.send nntplib.connect nntplib.putline poplib.connect poplib.putline
    smtplib.connect smtplib.send telnetlib.Telnet.open telnetlib.Telnet.write
    socket.__new__ socket.bind socket.connect socket.sendmsg socket.sendto socket.sethostname
    socket.getaddrinfo socket.getnameinfo socket.getservbyname socket.getservbyport
    socket.gethostbyaddr socket.gethostbyname socket.gethostname
    shutil.chown shutil.copyfile shutil.copymode shutil.copystat shutil.copytree
    shutil.make_archive shutil.move shutil.rmtree shutil.unpack_archive
    syslog.closelog syslog.openlog syslog.setlogmask syslog.syslog
    os.exec os.fork os.forkpty os.kill os.killpg os.posix_spawn os.spawn os.startfile os.system
    os.chdir os.chflags os.chmod os.chown os.fwalk os.link os.listdir os.listdrives os.listmounts
    os.listvolumes os.lockf os.mkdir os.remove os.rename os.rmdir os.scandir os.symlink
    os.truncate os.utime os.walk os.getxattr os.listxattr os.removexattr os.setxattr
    _thread.start_new_thread _thread.start_joinable_thread
"""

#: Each refused event with what to use instead. Their names: docs.python.org, "Audit events table".
_INSTEAD: Final[dict[str, str]] = {
    **dict.fromkeys(_EFFECTS.split(), _ACTIVITY),
    "time.sleep": "await asyncio.sleep(...), which is a durable timer",
    "builtins.input": "wait for a signal: await ctx.receive(...)",
    "os.putenv": _INPUT,
    "os.unsetenv": _INPUT,
}

#: Whose I/O is not the saga's own, by the first part of the module's name.
_NOT_THE_SAGA: Final = {
    *("importlib", "_frozen_importlib", "_frozen_importlib_external", "zipimport", "pkgutil"),
    *("linecache", "traceback", "logging", "bdb", "pdb", "weakref", "zoneinfo"),
}
_ENGINE: Final = "amends.sagas."
_STDLIB: Final = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
#: The turns that are running now, by thread.
_turns: Final[dict[int, saga_turn]] = {}
_install_lock: Final = threading.Lock()


class saga_turn:  # noqa: N801 - reads like `contextlib.suppress`
    """`with saga_turn() as turn:` runs saga code: I/O in this thread is refused meanwhile.

    Turns of one thread do not nest. An object can be entered again and again, which saves making
    another. `refusal` is the first refusal since it was last entered, or None. The saga may have
    caught the exception, so look here after the turn: code that swallows it is as wrong as before,
    and must stall.
    """

    __slots__ = ("_thread", "refusal")
    _hook_installed: ClassVar[bool] = False

    def __init__(self) -> None:
        if not saga_turn._hook_installed:
            _install()
        self.refusal: NotAllowedInSaga | None = None
        self._thread = 0

    def __enter__(self) -> saga_turn:
        self.refusal = None
        self._thread = thread = get_ident()
        assert thread not in _turns, "a saga's turn began inside a saga's turn"
        _turns[thread] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del _turns[self._thread]


def _install() -> None:
    with _install_lock:
        if not saga_turn._hook_installed:
            sys.addaudithook(_hook)
            saga_turn._hook_installed = True


def _hook(event: str, args: tuple[Any, ...]) -> None:
    # Every audit event of the whole process comes through here, so the usual case comes first.
    if _turns:
        turn = _turns.get(get_ident())
        if turn is not None and event in _INSTEAD:
            _judge(turn, event, args, sys._getframe(1))


def _judge(turn: saga_turn, event: str, args: tuple[Any, ...], frame: FrameType | None) -> None:
    if _is_somebody_elses(frame) or (event == "open" and _is_program_data(args)):
        return
    what = f"{event} {args[0]!r}" if event == "open" else event
    refusal = NotAllowedInSaga(
        f"saga code tried to touch the outside world ({what}), and every replay would do so "
        f"again. The call was refused, nothing happened. Instead: {_INSTEAD[event]}."
    )
    if turn.refusal is None:
        turn.refusal = refusal
    raise refusal


def _is_somebody_elses(frame: FrameType | None) -> bool:
    """Whether the code that makes the call was not called by the saga for its effect."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.partition(".")[0] in _NOT_THE_SAGA or frame.f_code.co_name == "__del__":
            return True
        if module.startswith(_ENGINE):
            # Below is the engine, and whoever called it: perhaps an import, which excuses nothing.
            return False
        frame = frame.f_back
    return False


def _is_program_data(args: tuple[Any, ...]) -> bool:
    """Whether a file is read that was deployed with the code, or holds time zones."""
    path, _, flags = args
    if not isinstance(path, str) or flags & (os.O_WRONLY | os.O_RDWR):
        return False
    if path.startswith("<"):
        return True  # a SyntaxError of compile() looks for its line, in "<string>" too
    zoneinfo = sys.modules.get("zoneinfo")
    folders = [
        *(each for each in sys.path if each.endswith(("site-packages", "dist-packages"))),
        *_STDLIB,
        *(zoneinfo.TZPATH if zoneinfo is not None else ()),
    ]
    return os.path.abspath(path).startswith(tuple(each + os.sep for each in folders))
