"""Where RabbitMQ is and how to come in: what `AMENDS_BROKER` and the settings beside it say.

    amqp://user:password@host:5672/vhost
    amqps://user:password@one/vhost?cafile=ca.pem,amqps://user:password@two/vhost?cafile=ca.pem

Several addresses are the nodes of one cluster. In user, password, virtual host and names of files,
whatever has a meaning in an address is percent-encoded; in a password that is not, anything may
look like another part. So errors quote nothing but names of files.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Final, NamedTuple, NoReturn
from urllib.parse import quote, unquote

from amends.errors import InvalidSettings

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
#: RabbitMQ's own, which comes in from the server's own machine only.
_GUEST: Final = "guest"
_VHOST_BYTES_MAX: Final = 255  # AMQP's short strings
#: Seconds: the least, the most, and what holds unless an address says otherwise. A shorter
#: heartbeat takes a busy process for a dead one, none (0) a dead one for a quiet one.
_SECONDS: Final = {"heartbeat": (5, 300, 10), "connection_timeout": (1, 300, 10)}
#: Files, and the setting that may name one instead.
_FILES: Final = {
    "cafile": "AMENDS_BROKER_CA_FILE",
    "certfile": "AMENDS_BROKER_CERT_FILE",
    "keyfile": "AMENDS_BROKER_KEY_FILE",
}
_KNOWN: Final = ", ".join([*_SECONDS, *_FILES])

_ADDRESS: Final = re.compile(
    r"((?P<user>[^:@/?#]*)(:(?P<password>[^@/?#]*))?@)?"
    r"(?P<host>\[[^]@/?#]*]|[^][:@/?#]*)"
    r"(:(?P<port>[^:@/?#]*))?"
    r"(/(?P<vhost>[^@?#]*))?"
    r"(\?(?P<query>[^@?#]*))?"
)
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_NUMBER: Final = re.compile(r"[0-9]{1,6}")


class Node(NamedTuple):
    """One server of a cluster. `host` is a name, or an IP address without brackets."""

    host: str
    port: int


@dataclass(frozen=True)
class BrokerAddress:
    """What a connection has to know. Its `repr` has no password.

    Files are PEM. Without `ca_file`, the authorities that the system trusts are trusted.
    """

    nodes: tuple[Node, ...]
    user: str
    password: str = field(repr=False)
    vhost: str
    heartbeat_s: int
    connection_timeout_s: int
    tls: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        heartbeat_s: int = _SECONDS["heartbeat"][2],
    ) -> BrokerAddress:
        """Read `AMENDS_BROKER` and the settings beside it, of which None and "" say nothing.
        `heartbeat_s` holds unless the address has a heartbeat.

        Raises InvalidSettings for what cannot be, what is said twice and differently, and files
        that are not there. No password is in it.
        """
        one, nodes = _parse_nodes(text)
        user = _once("the user", one.user, "AMENDS_BROKER_USER", user)
        password = _once("the password", one.password, "AMENDS_BROKER_PASSWORD", password)
        if (user is None) != (password is None):
            _refuse("there is a user without a password, or a password without a user; give both")
        given = dict(zip(_FILES, (ca_file, cert_file, key_file), strict=True))
        files = {name: _file(name, one.parameters.get(name), given[name]) for name in _FILES}
        if files["keyfile"] and not files["certfile"]:
            _refuse("there is a keyfile, but no certfile that it belongs to")
        if one.scheme == "amqp" and any(files.values()):
            _refuse("there are files for TLS, but an amqp address is not encrypted; use amqps")
        return cls(
            nodes,
            user or _GUEST,
            password or _GUEST,
            one.vhost,
            heartbeat_s=_seconds("heartbeat", one.parameters, heartbeat_s),
            connection_timeout_s=_seconds("connection_timeout", one.parameters),
            tls=one.scheme == "amqps",
            ca_file=files["cafile"],
            cert_file=files["certfile"],
            key_file=files["keyfile"],
        )

    def redacted(self) -> str:
        """The addresses for a log: without the password, and without parameters."""
        scheme = "amqps" if self.tls else "amqp"
        vhost = "" if self.vhost == "/" else f"/{quote(self.vhost, safe='')}"
        return ",".join(
            f"{scheme}://{quote(self.user, safe='')}@{_bracketed(host)}:{port}{vhost}"
            for host, port in self.nodes
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """What a connection needs for TLS; None when it is to have none. The server must have a
        certificate for its name from an authority that is trusted.

        Reads the files anew, so that the next connection takes up a certificate that was renewed.
        Raises InvalidSettings for files that cannot be read as what they should be.
        """
        if not self.tls:
            return None
        reading = f"the cafile {self.ca_file!r}"
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                reading = f"the certfile {self.cert_file!r} with the keyfile {self.key_file!r}"
                context.load_cert_chain(self.cert_file, self.key_file, _passphrase)
        except OSError as error:  # an SSLError is one
            why = error.strerror or "it is not what it should be"
            raise _refusal(f"{reading} cannot be read: {why}") from error
        return context


class _One(NamedTuple):
    """One address, as it stands there."""

    scheme: str
    node: Node
    user: str
    password: str
    vhost: str
    parameters: dict[str, str]


def _refusal(why: str) -> InvalidSettings:
    return InvalidSettings(f"AMENDS_BROKER cannot be used: {why}. Nothing was opened")


def _refuse(why: str) -> NoReturn:
    raise _refusal(why)


def _parse_nodes(text: str) -> tuple[_One, tuple[Node, ...]]:
    """What the addresses have in common, in the first of them, and their nodes."""
    each = [_parse_one(part.strip()) for part in text.split(",")]
    first = each[0]
    if any(one.scheme != first.scheme for one in each):
        _refuse("some of its addresses are amqp and others amqps; use one of them for all")
    if any(one._replace(node=first.node) != first for one in each):
        _refuse(
            "its addresses, which are the nodes of one cluster, differ in more than host and port; "
            "make user, password, virtual host and parameters the same"
        )
    return first, tuple(one.node for one in each)


def _parse_one(text: str) -> _One:
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in _PORTS:
        _refuse(
            "an address begins with amqp:// or amqps://, also each of several with ',' between "
            "them; in a password, ',' is written %2C"
        )
    found = _ADDRESS.fullmatch(rest)
    if found is None:
        _refuse(
            "an address is amqp://user:password@host:port/vhost?parameters; within any of these, "
            "write '@' as %40, '/' as %2F, '?' as %3F, '#' as %23"
        )
    return _One(
        scheme,
        Node(_host(found["host"]), _port(found["port"], _PORTS[scheme])),
        _decoded("the user", found["user"] or ""),
        _decoded("the password", found["password"] or ""),
        _vhost(found["vhost"] or ""),
        _parameters(found["query"] or ""),
    )


def _host(text: str) -> str:
    if not text:
        _refuse("an address has no host")
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except AddressValueError:
            raise _refusal("what is in brackets is no IPv6 address") from None
    if not _HOST.fullmatch(text):
        _refuse("a host is a name of letters, digits, '.', '-' and '_', or an IP address")
    return text


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not 0 < int(text) < 65_536:
        _refuse(
            "a port is a number from 1 to 65535. If there is no port in it, what stands after ':' "
            "is a password that lacks its '@host'"
        )
    return int(text)


def _vhost(text: str) -> str:
    if text in ("", "/"):
        return "/"
    vhost = _decoded("the virtual host", text)
    if "/" in text:
        _refuse("a '/' in the virtual host is written %2F")
    if len(vhost.encode()) > _VHOST_BYTES_MAX:
        _refuse(f"the virtual host is longer than {_VHOST_BYTES_MAX} bytes")
    if "%2F" in vhost or not {".", ".."}.isdisjoint(vhost.split("/")):
        _refuse("the client would take this virtual host for another; use one without '%2F', '..'")
    return vhost


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in _SECONDS and name not in _FILES:
            _refuse(f"one of its parameters is none of those there are: {_KNOWN}")
        if name in found:
            _refuse(f"the parameter {name} is there twice")
        found[name] = _decoded(f"the parameter {name}", value)
    return found


def _seconds(name: str, parameters: dict[str, str], otherwise: int | None = None) -> int:
    least, most, usual = _SECONDS[name]
    text = parameters.get(name, str(usual if otherwise is None else otherwise))
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        _refuse(f"{name} is a whole number of seconds, from {least} to {most}")
    return int(text)


def _file(name: str, in_address: str | None, in_setting: str | None) -> str | None:
    setting = _FILES[name]
    file = _once(f"the {name}", in_address, setting, in_setting)
    if file is not None and not Path(file).is_file():
        _refuse(f"{file!r}, the {name} ({setting}), is no file that could be read")
    return file


def _once(what: str, in_address: str | None, setting: str, in_setting: str | None) -> str | None:
    """What is said in one of two places, or alike in both."""
    if in_address and in_setting and in_address != in_setting:
        _refuse(f"{what} in it is another than in {setting}; give it in one place only")
    said = in_setting or in_address or None
    return said and _text(what, said)


def _decoded(what: str, text: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        _refuse(f"in {what}, '%' is written %25")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _refusal(f"{what}, percent-decoded, is not UTF-8") from None
    return _text(what, decoded)


def _text(what: str, text: str) -> str:
    """What can be sent as UTF-8: the environment may hold other bytes, which Python escapes."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        _refuse(f"{what} has a NUL in it, or is not UTF-8")
    return text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _passphrase() -> NoReturn:
    raise _refusal("the keyfile is encrypted; give one that is not, which only the engine can read")
