"""What a private RabbitMQ server is made of: the installed program, its ports and its files."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from amends.errors import AmendsError

#: Where the server is looked for: named by this variable, ...
SERVER_VARIABLE: Final = "AMENDS_RABBITMQ_SERVER"
#: ... where packages have it, and on the PATH. Not in /usr/sbin first, which is on a PATH: Debian's
#: program there is a wrapper that becomes the user `rabbitmq`.
PACKAGED: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

#: Below the ports that the kernel hands out for outgoing connections: one of these could take the
#: port of a server that is down, and a client that keeps trying would in the end reach itself.
PORTS: Final = range(20_000, 32_000)

#: How much of its memory the server may fill before it blocks publishers, of 1.
MEMORY_WATERMARK: Final = 0.6


class RabbitMQError(AmendsError):
    """The private server did not start, or refused a call."""


class RabbitMQMissing(RabbitMQError):
    """No RabbitMQ server is installed here."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """What a server shows to its clients, as PEM files. The certificate names `localhost`."""

    ca: Path
    """The certificates that clients of the server trust."""
    certificate: Path
    """The server's certificate, and those between it and the `ca`."""
    key: Path
    """The private key of `certificate`, without a passphrase."""


def find_server() -> Path:
    """The program `rabbitmq-server`; the environment variable AMENDS_RABBITMQ_SERVER overrides it.

    Raises:
        RabbitMQMissing: There is none, or no Erlang for it.
    """
    named = os.environ.get(SERVER_VARIABLE)
    found = named or (str(PACKAGED) if PACKAGED.exists() else "rabbitmq-server")
    for program in (found, "erl", "epmd"):
        if shutil.which(program) is None:
            raise RabbitMQMissing(
                f"There is no program {program!r} here, so no RabbitMQ server can be started; "
                "nothing was done. Install the package rabbitmq-server (apt-get install "
                f"rabbitmq-server), or name the program in {SERVER_VARIABLE}."
            )
    return Path(shutil.which(found) or found)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a server keeps over its restarts: where it listens, and who may connect."""

    tls: TlsFiles | None = None
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    password: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def port(self) -> int:
        """Where it listens for connections without TLS."""
        return self.ports[0]

    @property
    def tls_port(self) -> int:
        """Where it listens for connections with TLS, if it does."""
        return self.ports[1]

    @property
    def node(self) -> str:
        """Its name among Erlang's machines."""
        return f"amends-{self.port}@localhost"

    def configuration(self) -> str:
        """The contents of rabbitmq.conf."""
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "default_user = amends",
            f"default_pass = {self.password}",
            f"vm_memory_high_watermark.relative = {MEMORY_WATERMARK}",
            "disk_free_limit.absolute = 1MB",  # a small /tmp is no reason to block
            "log.console = false",
        ]
        if self.tls is not None:
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {self.tls.ca}",
                f"ssl_options.certfile = {self.tls.certificate}",
                f"ssl_options.keyfile = {self.tls.key}",
            ]
        return "\n".join([*lines, ""])

    def environment(self, folder: Path) -> dict[str, str]:
        """What the server and rabbitmqctl see: nothing that was meant for another server."""
        _, _, dist_port, epmd_port = self.ports
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),  # of the Erlang cookie
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_ALLOW_INPUT": "true",  # no shell around it, and a console
            "RABBITMQ_SCRIPTS_DIR": str(folder / "home/sbin"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "none/*.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",  # it shares its processors with the tests
            "ERL_CRASH_DUMP_SECONDS": "0",  # none: it would go with the folder
            "ERL_INETRC": str(folder / "inetrc"),  # it knows localhost, and asks no name server
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            # An epmd that Erlang starts by itself is a daemon, and would stay.
            "ERL_ZFLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def write_files(self, folder: Path, server: Path) -> None:
        """Write what the server reads when it starts."""
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "inetrc").write_text('{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file]}.\n')
        (folder / "rabbitmq.conf").write_text(self.configuration())
        link_without_plugins(server.resolve().parents[1], folder / "home")


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody uses now; others may take them until they are used."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def link_without_plugins(installed: Path, home: Path) -> None:
    """Make at `home` what is at `installed`, of links, without the plugins that nobody enabled.

    Erlang looks for every module in the folder of every plugin: half of the server's start.
    """
    (home / "plugins").mkdir(parents=True)
    for entry in installed.iterdir():
        if entry.name != "plugins":
            (home / entry.name).symlink_to(entry)
    for entry in (installed / "plugins").iterdir():
        if entry.name.startswith("rabbitmq_prelaunch") or not entry.name.startswith("rabbitmq_"):
            (home / "plugins" / entry.name).symlink_to(entry)
