"""A RabbitMQ server of a test's own: started, killed, paused and thrown away with it.

It runs from the installed package (Debian and Ubuntu: `rabbitmq-server`), as whatever user runs the
test, and shares nothing with a server of the machine: its own ports on 127.0.0.1, its own folder for
data, logs, configuration and Erlang cookie, its own user, and its own epmd::

    with PrivateRabbitMQ() as server:
        ...  # connect to server.url
        server.kill()
        server.restart()

It boots in about three seconds. All calls block; a test that is a coroutine and has something else
to do meanwhile says `await asyncio.to_thread(server.restart)`. Nothing stays behind, however the
process ends that made it: see `amends.testing.guarded`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from amends.testing.guarded import GuardedProcess
from amends.testing.rabbitmq_files import (
    MEMORY_WATERMARK,
    Identity,
    RabbitMQError,
    RabbitMQMissing,
    TlsFiles,
    find_server,
)

__all__ = ["PrivateRabbitMQ", "RabbitMQError", "RabbitMQMissing", "TlsFiles", "find_server"]

#: How long the server may take to start; an idle machine needs three seconds for it.
START_TIMEOUT_S: Final = 60.0
CALL_TIMEOUT_S: Final = 30.0

#: How much of a log an error shows: what was wrong comes first, then what broke of it.
LOG_LINES: Final = 60

#: The first words of a client, and of the server's answer: a method frame.
AMQP_HEADER: Final = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME: Final = b"\x01"

#: Run by sh. The process becomes the server, and epmd is of its group: they are killed together.
WITH_EPMD: Final = 'epmd & exec "$0"'

#: It listens a moment before it is up, and while it counts itself among what boots, `rabbit:start`
#: does nothing.
BOOTED: Final = """
    (fun Wait() -> case {rabbit:is_running(), whereis(rabbit_boot)} of
        {true, undefined} -> ok;
        _ -> timer:sleep(10), Wait()
    end end)()
"""


class PrivateRabbitMQ:
    """A RabbitMQ server for tests, as a context manager or between `start` and `stop`.

    Its ports, user and password are fixed when it is made, so `url` holds over any restart.

    Args:
        tls: Also listens for TLS connections, see `tls_url`.
        where: The folder in which it has its own; by default where temporary files are.

    Raises:
        RabbitMQMissing: There is no RabbitMQ to start.
    """

    def __init__(self, *, tls: TlsFiles | None = None, where: Path | None = None) -> None:
        self._where = where
        self._server = find_server()
        self._identity = Identity(tls=tls)
        self._process: GuardedProcess | None = None
        self._paused = False

    @property
    def url(self) -> str:
        """Where it listens, with user and password: `amqp://…@127.0.0.1:…/`."""
        return f"amqp://amends:{self._identity.password}@127.0.0.1:{self._identity.port}/"

    @property
    def tls_url(self) -> str:
        """Where it listens for TLS connections: `amqps://…@localhost:…/`. Needs `tls`."""
        assert self._identity.tls is not None, "this server was made without tls"
        return f"amqps://amends:{self._identity.password}@localhost:{self._identity.tls_port}/"

    @property
    def pid(self) -> int:
        """The server's process (the Erlang machine itself). It is another one after a restart."""
        pid = self._process.pid if self._process else None
        if pid is None:
            raise RabbitMQError(f"RabbitMQ does not run: start it first.{self._log_tail()}")
        return pid

    @property
    def running(self) -> bool:
        """Whether the process is there; it may be paused, or its application stopped."""
        return self._process is not None and self._process.pid is not None

    # --- its life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it answers AMQP; nothing happens if it runs.

        What was durable when it was killed is there again; after `stop`, it begins empty.

        Raises:
            RabbitMQError: It ended at once, or did not answer within a minute. It is gone, with
                its data; the error shows the end of its log.
        """
        if self.running:
            return
        try:
            process = self._process or self._prepare()
            process.kill()  # what a server that died by itself left of its group
            self._paused = False
            process.launch(
                ["/bin/sh", "-c", WITH_EPMD, self._server],
                self._identity.environment(process.folder),
            )
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Kill it (SIGKILL), and wait for its end. Its data stays.

        A new quorum queue is registered on disk only a moment later (in RabbitMQ 3.10 to 4.0): after
        a kill before that, it is empty and has no leader for ever, whatever was confirmed. A test
        declares just before it kills, so this has that written first, unless the server is paused.
        Use `os.kill(server.pid, SIGKILL)` for a kill that is not so kind.
        """
        if self._process is None:
            return
        if self.running and not self._paused:
            with contextlib.suppress(RabbitMQError):  # it does not answer any more
                self.eval("[dets:sync(Table) || Table <- dets:all()]", timeout=1.0)
        self._process.kill()

    def restart(self) -> None:
        """Kill it if it runs, and start it with the same ports and data. See `start`."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Kill it, and remove its data and logs. Nothing is left, and `start` begins anew."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let it go on after `pause`; nothing happens if it is not paused."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # --- what happens to it --------------------------------------------------------------------

    def close_all_connections(self) -> None:
        """Close every client's connection, as an administrator would (320, CONNECTION_FORCED)."""
        self.eval(
            '[rabbit_networking:close_connection(P, "closed by a test")'
            " || P <- rabbit_networking:connections()]"
        )

    def delete(self, prefix: str) -> None:
        """Delete every queue and exchange whose name begins with `prefix`, used or not."""
        self.eval(
            f'Ours = fun(Name) -> string:prefix(element(4, Name), <<"{prefix}">>) =/= nomatch end,'
            '[rabbit_amqqueue:delete(Q, false, false, <<"amends">>)'
            " || Q <- rabbit_amqqueue:list(), Ours(amqqueue:get_name(Q))],"
            '[rabbit_exchange:delete(element(2, X), false, <<"amends">>)'
            " || X <- rabbit_exchange:list(), Ours(element(2, X))]"
        )

    def stop_app(self) -> None:
        """Stop the broker in an orderly way, as an upgrade does; the process stays."""
        self.eval("rabbit:stop()")

    def start_app(self) -> None:
        """Start the broker again after `stop_app`, and wait until it answers AMQP."""
        self.eval("rabbit:start()")
        self._wait_until_it_answers()

    def set_memory_alarm(self) -> None:
        """Have it believe that memory is short: it blocks connections that publish."""
        self._set_memory_watermark(0.0)

    def clear_memory_alarm(self) -> None:
        """End what `set_memory_alarm` began."""
        self._set_memory_watermark(MEMORY_WATERMARK)

    def _set_memory_watermark(self, share: float) -> None:
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({share})")

    # --- questions and orders ------------------------------------------------------------------

    def eval(self, expressions: str, *, timeout: float = CALL_TIMEOUT_S) -> str:
        """Evaluate Erlang in the server, on its console; takes milliseconds.

        Args:
            expressions: Erlang expressions with commas between them, without a full stop.
            timeout: In seconds.

        Returns:
            The last one's value, as Erlang prints it.

        Raises:
            RabbitMQError: They failed, or did not come back in time (as what is not Erlang, or
                when the server is paused).
        """
        process = self._process
        if process is None or process.pid is None:
            raise RabbitMQError(f"RabbitMQ does not run: start it first.{self._log_tail()}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(timeout)
            process.input.write(_console_line(expressions, listener.getsockname()[1]))
            try:
                answer = _read_all(listener, timeout)
            except TimeoutError:
                raise RabbitMQError(
                    f"RabbitMQ did not evaluate {expressions!r} within {timeout} s; it may have "
                    f"had its effect.{self._log_tail()}"
                ) from None
        kind, _, value = answer.partition(" ")
        if kind != "ok":
            raise RabbitMQError(f"RabbitMQ raised from {expressions!r}: {kind} {value}")
        return value

    def ctl(self, *arguments: str, timeout: float = CALL_TIMEOUT_S) -> str:
        """Run `rabbitmqctl`, which takes half a second or more, and return what it prints.

        Raises:
            RabbitMQError: It failed, or took longer than `timeout` seconds.
        """
        command, environment = self.ctl_command()
        try:
            done = subprocess.run(
                [*command, *arguments],
                env=environment,
                cwd=environment["HOME"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise RabbitMQError(f"rabbitmqctl {arguments} took over {timeout} s") from error
        except subprocess.CalledProcessError as error:
            said = f"{error.stdout}{error.stderr}"
            raise RabbitMQError(f"rabbitmqctl {arguments} failed: {said}") from error
        return done.stdout

    def ctl_command(self) -> tuple[list[str], dict[str, str]]:
        """How to run `rabbitmqctl` on it: the command, and the environment that it needs."""
        assert self._process is not None, "rabbitmqctl works on what was started"
        command = [str(self._server.with_name("rabbitmqctl")), "--node", self._identity.node]
        return command, self._identity.environment(self._process.folder)

    def cpu_seconds(self) -> float:
        """The processor time that the server took since it was started last, in seconds.

        That is the Erlang machine's; its helpers (for names and free space) take next to nothing.
        """
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in after_name[11:15]) / os.sysconf("SC_CLK_TCK")

    # --- how it is started ---------------------------------------------------------------------

    def _prepare(self) -> GuardedProcess:
        self._process = GuardedProcess("amends-rabbitmq-", self._where)
        self._identity.write_files(self._process.folder, self._server)
        return self._process

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        identity = self._identity
        while not (
            answers(identity.port, AMQP_HEADER, METHOD_FRAME)
            and (identity.tls is None or answers(identity.tls_port, b"", b""))
        ):
            if not self.running:
                raise RabbitMQError(f"RabbitMQ ended while it started.{self._log_tail()}")
            if time.monotonic() > deadline:
                raise RabbitMQError(
                    f"RabbitMQ did not answer within {START_TIMEOUT_S:.0f} s.{self._log_tail()}"
                )
            time.sleep(0.05)
        self.eval(BOOTED)

    def _log_tail(self) -> str:
        """The ends of what it printed and of its log."""
        if self._process is None:
            return ""
        log = self._process.folder / "log" / f"{self._identity.node}.log"
        files = [file for file in (self._process.output, log) if file.exists()]
        lines = [
            line for f in files for line in f.read_text(errors="replace").splitlines()[-LOG_LINES:]
        ]
        return "".join(f"\n| {line}" for line in lines)


def answers(port: int, says: bytes, is_told: bytes) -> bool:
    """Whether somebody on 127.0.0.1 answers a client that `says` something as it should."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(says)
            return client.recv(len(is_told)) == is_told
    except OSError:
        return False


def _console_line(expressions: str, port: int) -> bytes:
    """What makes the console send the value of `expressions` to a port."""
    return (
        "(fun() -> {Kind, Value} = "
        f"try {{ok, begin {expressions} end}} "
        "catch Class:Reason:Where -> {Class, {Reason, Where}} end,"
        f"{{ok, Socket}} = gen_tcp:connect({{127,0,0,1}}, {port}, []),"
        'ok = gen_tcp:send(Socket, io_lib:format("~p ~0p", [Kind, Value])),'
        "gen_tcp:close(Socket) end)().\n"
    ).encode()


def _read_all(listener: socket.socket, timeout: float) -> str:
    """What the first client of `listener` says until it hangs up."""
    client, _ = listener.accept()
    with client:
        client.settimeout(timeout)
        return b"".join(iter(lambda: client.recv(65536), b"")).decode(errors="replace")
