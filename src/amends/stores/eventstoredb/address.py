"""Where EventStoreDB is and how to come in: what `AMENDS_STORE` and the settings beside it say.

    esdb://admin:password@host:2113?tls=true&tlsCaFile=ca.pem
    esdb://admin:password@one:2113,two:2113,three:2113
    kurrentdb+discover://admin:password@cluster.example.com

One host is used as it is; of several, and of what `+discover` finds behind a name, the node that is
wanted. In user, password and names of files, whatever has a meaning in an address is
percent-encoded; in a password that is not, anything may look like another part. So errors quote
nothing but names of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import unquote

from amends.errors import InvalidSettings

#: What an address may begin with, each also with `+discover`.
_SCHEMES: Final = ("esdb", "kurrentdb", "kurrent", "kdb")
_DISCOVER: Final = "+discover"
_PORT: Final = 2113
#: Nodes that may be preferred for following the log. Everything else needs the one that leads.
_NODES: Final = ("leader", "follower", "readonlyreplica", "random")
#: Milliseconds or seconds, in the words of the clients that exist: what they say if not told.
_TIMES: Final = {
    "keepaliveinterval": (0.001, 10.0),
    "keepalivetimeout": (0.001, 10.0),
    "gossiptimeout": (1.0, 5.0),
}
#: Files, and the setting that may name one instead.
_FILES: Final = {
    "tlscafile": "AMENDS_STORE_CA_FILE",
    "usercertfile": "AMENDS_STORE_CERT_FILE",
    "userkeyfile": "AMENDS_STORE_KEY_FILE",
}
#: What other clients do with these, AMENDS_STORE_TIMEOUT_S says here; they are read and left.
_IDLE: Final = (
    "maxdiscoverattempts",
    "discoveryinterval",
    "defaultdeadline",
    "throwonappendfailure",
)
_KNOWN: Final = (
    "tls, tlsVerifyCert, tlsCaFile, userCertFile, userKeyFile, nodePreference, connectionName, "
    "keepAliveInterval, keepAliveTimeout, gossipTimeout, maxDiscoverAttempts, discoveryInterval, "
    "defaultDeadline, throwOnAppendFailure"
)
_PARAMETERS: Final = frozenset(_KNOWN.lower().split(", "))

_ADDRESS: Final = re.compile(
    r"((?P<user>[^:@/?#]*)(:(?P<password>[^@/?#]*))?@)?(?P<hosts>[^@/?#]*)/?(\?(?P<query>[^@?#]*))?"
)
_HOST: Final = re.compile(r"(?P<host>\[[^]]*]|[^][:]*)(:(?P<port>[^:]*))?")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class StoreAddress:
    """What a connection has to know. Its `repr` has no password.

    Files are PEM. Without `ca_file`, the authorities that come with gRPC are trusted.
    """

    targets: tuple[str, ...]
    """`host:port` of each node that is named."""
    discovers: bool
    """Whether these nodes are to be asked which node to use."""
    user: str | None
    password: str | None = field(repr=False)
    tls: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    node_preference: str
    """Where the log is followed: `leader`, `follower`, `readonlyreplica` or `random`."""
    connection_name: str
    keep_alive_interval_s: float
    keep_alive_timeout_s: float
    gossip_timeout_s: float

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
    ) -> StoreAddress:
        """Read `AMENDS_STORE` and the settings beside it, of which None and "" say nothing.

        Raises InvalidSettings for what cannot be, what is said twice and differently, and files
        that are not there. No password is in it.
        """
        found, parameters, discovers = _parts(text)
        targets = tuple(_target(host.strip()) for host in (found["hosts"] or "").split(","))
        if discovers and len(targets) > 1:
            _refuse("with +discover there is one host, whose name stands for all nodes")
        user = _once("the user", _decoded("the user", found["user"] or ""), "_USER", user)
        secret = _decoded("the password", found["password"] or "")
        password = _once("the password", secret, "_PASSWORD", password)
        if (user is None) != (password is None):
            _refuse("there is a user without a password, or a password without a user; give both")
        tls = _is_on("tls", parameters)
        files = _files(parameters, (ca_file, cert_file, key_file))
        if not tls and any(files):
            _refuse("there are files for TLS, but the address says tls=false")
        if not _is_on("tlsverifycert", parameters):
            _refuse(
                "gRPC for Python verifies every certificate, so that tlsVerifyCert=false cannot be; "
                "name the authority's certificate instead (AMENDS_STORE_CA_FILE)"
            )
        return cls(
            targets,
            discovers or len(targets) > 1,
            user,
            password,
            tls,
            *files,
            node_preference=_node(parameters),
            connection_name=_printable(parameters.get("connectionname") or "amends"),
            keep_alive_interval_s=_seconds("keepaliveinterval", parameters),
            keep_alive_timeout_s=_seconds("keepalivetimeout", parameters),
            gossip_timeout_s=_seconds("gossiptimeout", parameters),
        )

    def redacted(self) -> str:
        """The address for a log: without the password, and without parameters."""
        who = "" if self.user is None else f"{self.user}@"
        return f"esdb://{who}{','.join(self.targets)}"


def _refuse(why: str) -> NoReturn:
    raise InvalidSettings(f"AMENDS_STORE cannot be used: {why}. Nothing was opened")


def _parts(text: str) -> tuple[dict[str, str | None], dict[str, str], bool]:
    """The address taken apart, its parameters, and whether it says `+discover`."""
    scheme, slashes, rest = text.strip().partition("://")
    if not slashes or scheme.lower().removesuffix(_DISCOVER) not in _SCHEMES:
        _refuse("an address begins with esdb://, esdb+discover:// or the same with kurrentdb")
    found = _ADDRESS.fullmatch(rest)
    if found is None:
        _refuse(
            "an address is esdb://user:password@host:port,host:port?parameters; within any of "
            "these, write '@' as %40, '/' as %2F, '?' as %3F, '#' as %23"
        )
    return found.groupdict(), _parameters(found["query"] or ""), scheme.lower().endswith(_DISCOVER)


def _target(text: str) -> str:
    found = _HOST.fullmatch(text)
    host = found["host"] if found else ""
    if not host:
        _refuse("an address has no host where one should be")
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1])
        except AddressValueError:
            _refuse("what is in brackets is no IPv6 address")
    elif not _NAME.fullmatch(host):
        _refuse("a host is a name of letters, digits, '.', '-' and '_', or an IP address")
    assert found is not None
    port = str(_PORT) if found["port"] is None else found["port"]
    if not _NUMBER.fullmatch(port) or not 0 < int(port) < 65_536:
        _refuse(
            "a port is a number from 1 to 65535. If there is no port in it, what stands after ':' "
            "is a password that lacks its '@host'"
        )
    return f"{host}:{int(port)}"


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        name = name.lower()
        if name not in _PARAMETERS:
            _refuse(f"one of its parameters is none of those there are: {_KNOWN}")
        if name in found:
            _refuse(f"the parameter {name} is there twice")
        found[name] = _decoded(f"the parameter {name}", value)
    return found


def _is_on(name: str, parameters: dict[str, str]) -> bool:
    value = parameters.get(name, "true").lower()
    if value not in ("true", "false"):
        _refuse(f"{name} is true or false")
    return value == "true"


def _node(parameters: dict[str, str]) -> str:
    node = parameters.get("nodepreference", _NODES[0]).lower()
    if node not in _NODES:
        _refuse(f"nodePreference is one of {', '.join(_NODES)}")
    return node


def _seconds(name: str, parameters: dict[str, str]) -> float:
    unit_s, usual_s = _TIMES[name]
    text = parameters.get(name)
    if text is None:
        return usual_s
    if not _NUMBER.fullmatch(text) or int(text) == 0:
        _refuse(
            f"{name} is a whole number of {'seconds' if unit_s == 1 else 'milliseconds'} above 0"
        )
    return int(text) * unit_s


def _files(
    parameters: dict[str, str], given: tuple[str | None, ...]
) -> tuple[str | None, str | None, str | None]:
    ca, cert, key = (
        _file(name, parameters.get(name), setting)
        for name, setting in zip(_FILES, given, strict=True)
    )
    if (cert is None) != (key is None):
        _refuse("a client's certificate and its key come together: give both files, or none")
    return ca, cert, key


def _file(name: str, in_address: str | None, in_setting: str | None) -> str | None:
    setting = _FILES[name].removeprefix("AMENDS_STORE")
    file = _once(f"the {name}", in_address or "", setting, in_setting)
    if file is not None and not Path(file).is_file():
        _refuse(f"{file!r}, the {name} ({_FILES[name]}), is no file that could be read")
    return file


def _once(what: str, in_address: str, setting: str, in_setting: str | None) -> str | None:
    """What is said in one of two places, or alike in both."""
    if in_address and in_setting and in_address != in_setting:
        _refuse(f"{what} in it is another than in AMENDS_STORE{setting}; give it in one place only")
    said = in_setting or in_address or None
    return said and _text(what, said)


def _decoded(what: str, text: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        _refuse(f"in {what}, '%' is written %25")
    try:
        return _text(what, unquote(text, errors="strict"))
    except UnicodeDecodeError:
        _refuse(f"{what}, percent-decoded, is not UTF-8")


def _text(what: str, text: str) -> str:
    """What can be sent as UTF-8: the environment may hold other bytes, which Python escapes."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        _refuse(f"{what} has a NUL in it, or is not UTF-8")
    return text


def _printable(name: str) -> str:
    if not name.isascii() or not name.isprintable():
        _refuse("connectionName is of printable ASCII characters")
    return name
