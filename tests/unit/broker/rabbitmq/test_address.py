"""An address is read as it was meant or refused with the reason, and shows nobody a password."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amends.broker.rabbitmq.address import BrokerAddress, Node
from amends.errors import InvalidSettings

#: An authority and what it signed for a client and for the server `broker.test`, valid until 2120.
#: The passphrase of locked.key is "secret".
TLS = Path(__file__).resolve().parents[3] / "data" / "tls"
CA, CERT, KEY = (str(TLS / name) for name in ("ca.pem", "client.pem", "client.key"))
parse = BrokerAddress.parse
quick = settings(max_examples=300, deadline=None, derandomize=True)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses().map(str)
nodes = st.lists(st.tuples(hosts, st.integers(1, 65535)), min_size=1, max_size=3)
SECRET = "Secret"


def encoded(text: str) -> str:
    return quote(text, safe="")


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refusal(text: str, **given: Any) -> str:
    with pytest.raises(InvalidSettings, match=r"^AMENDS_BROKER cannot be used: ") as caught:
        parse(text, **given)
    assert str(caught.value).endswith(". Nothing was opened")
    return str(caught.value)


def test_everything_has_a_default_but_the_host() -> None:
    assert parse("amqp://localhost") == BrokerAddress(
        nodes=(Node("localhost", 5672),),
        user="guest",
        password="guest",
        vhost="/",
        heartbeat_s=10,
        connection_timeout_s=10,
        tls=False,
        ca_file=None,
        cert_file=None,
        key_file=None,
    )
    assert parse("amqps://localhost").nodes == (Node("localhost", 5671),)
    assert parse("amqps://localhost").tls


@quick
@given(nodes, texts, texts, texts.map(lambda text: text.replace("/", "|")))
@example([("h", 1)], "a@b", "p/?#[]@:,%41 +&=", "a b")
def test_every_part_is_read_as_it_was_meant(
    where: list[tuple[str, int]], user: str, password: str, vhost: str
) -> None:
    if len(vhost.encode()) > 255 or vhost in (".", "..") or "%2F" in vhost:
        return
    secrets = f"{encoded(user)}:{encoded(password)}"
    text = ",".join(
        f"amqp://{secrets}@{authority(*node)}/{encoded(vhost)}?heartbeat=20&connection_timeout=3"
        for node in where
    )
    address = parse(text)
    assert [tuple(node) for node in address.nodes] == where
    assert (address.user, address.password, address.vhost) == (user, password, vhost)
    assert (address.heartbeat_s, address.connection_timeout_s) == (20, 3)
    assert parse(text, heartbeat_s=7).heartbeat_s == 20
    assert parse("amqp://h", heartbeat_s=7).heartbeat_s == 7
    apart = f"amqp://{','.join(authority(*node) for node in where[:1])}/{encoded(vhost)}"
    assert parse(apart, user=user, password=password).password == password


@quick
@given(nodes, texts, texts, st.booleans())
def test_what_is_logged_leads_to_the_same_place(
    where: list[tuple[str, int]], user: str, vhost: str, tls: bool
) -> None:
    scheme = "amqps" if tls else "amqp"
    text = ",".join(f"{scheme}://{authority(*node)}/{encoded(vhost)}" for node in where)
    try:
        address = parse(text, user=user, password=SECRET)
    except InvalidSettings:
        return
    assert SECRET not in address.redacted() + repr(address) + str(address)
    assert parse(address.redacted(), password=SECRET) == address


@pytest.mark.parametrize(
    ("path", "vhost"),
    [("", "/"), ("/", "/"), ("//", "/"), ("/%2F", "/"), ("/a%2fb", "a/b"), ("/a.b%25", "a.b%")],
)
def test_the_virtual_host(path: str, vhost: str) -> None:
    assert parse(f"amqp://h{path}").vhost == vhost


def test_the_nodes_of_a_cluster() -> None:
    address = parse(" amqp://u:p@a/v , amqp://u:p@[::1]:7/v,AMQP://u:p@c/v ")
    assert address.nodes == (Node("a", 5672), Node("::1", 7), Node("c", 5672))
    assert address.redacted() == "amqp://u@a:5672/v,amqp://u@[::1]:7/v,amqp://u@c:5672/v"


def test_what_the_address_leaves_open_settings_say() -> None:
    address = parse("amqps://h", user="u", password="p", ca_file=CA, cert_file=CERT, key_file=KEY)
    in_address = f"amqps://u:p@h?cafile={CA}&certfile={CERT}&keyfile={KEY}"
    assert parse(in_address) == address
    assert (address.ca_file, address.cert_file, address.key_file) == (CA, CERT, KEY)
    assert parse(in_address, user="u", password="p", ca_file=CA, cert_file="") == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with amqp:// or amqps://"),
        ("localhost", "begins with amqp:// or amqps://"),
        ("http://h", "begins with amqp:// or amqps://"),
        ("u:p@amqp://h", "begins with amqp:// or amqps://"),
        ("amqp://h,", "begins with"),
        ("amqp://h,h2", "each of several"),
        ("amqp://", "has no host"),
        ("amqp://:5672", "has no host"),
        ("amqp://u:p@/v", "has no host"),
        ("amqp://a b", "a host is"),
        ("amqp://ä", "a host is"),
        ("amqp://h%41", "a host is"),
        ("amqp://[::zz]", "no IPv6 address"),
        ("amqp://[]", "no IPv6 address"),
        ("amqp://h:0", "a port is a number from 1 to 65535"),
        ("amqp://h:65536", "a port is"),
        ("amqp://h:-1", "a port is"),
        ("amqp://h:٣", "a port is"),
        ("amqp://h:", "a port is"),
        ("amqp://h:secret", "lacks its '@host'"),
        ("amqp://u:p@q@h", "write '@' as %40"),
        ("amqp://u:p/q@h", "'/' as %2F"),
        ("amqp://u:p?q@h", "'?' as %3F"),
        ("amqp://u:p#q@h", "'#' as %23"),
        ("amqp://h/v#x", "'#' as %23"),
        ("amqp://::1", "is amqp://user"),
        ("amqp://u:1,q@h", "',' is written %2C"),
        ("amqp://u:100%@h", "in the password, '%' is written %25"),
        ("amqp://u%2:p@h", "in the user, '%' is written %25"),
        ("amqp://u:%FF@h", "the password, percent-decoded, is not UTF-8"),
        ("amqp://u:p%00@h", "the password has a NUL in it"),
        ("amqp://u:\udcff@h", "the password has a NUL in it, or is not UTF-8"),
        ("amqp://u@h", "user without a password"),
        ("amqp://u:@h", "user without a password"),
        ("amqp://:p@h", "user without a password, or a password"),
        ("amqp://h/a/b", "a '/' in the virtual host is written %2F"),
        ("amqp://h/" + "v" * 256, "longer than 255 bytes"),
        ("amqp://h/a%252Fb", "for another"),
        ("amqp://h/a%2F..%2Fb", "for another"),
        ("amqp://h?heartbeat=4", "heartbeat is a whole number of seconds, from 5 to 300"),
        ("amqp://h?heartbeat=0", "heartbeat is"),
        ("amqp://h?heartbeat=301", "heartbeat is"),
        ("amqp://h?heartbeat=1e1", "heartbeat is"),
        ("amqp://h?heartbeat=", "heartbeat is"),
        ("amqp://h?connection_timeout=30000", "seconds, from 1 to 300"),
        ("amqp://h?heartbeat=10&heartbeat=10", "heartbeat is there twice"),
        ("amqp://h?verify=no", "none of those there are: heartbeat, connection_timeout, cafile"),
        ("amqp://h?Heartbeat=10", "one of its parameters is none"),
        ("amqp://h?=1", "one of its parameters is none"),
        ("amqp://a,amqps://b", "some of its addresses are amqp and others amqps"),
        ("amqp://a/v,amqp://b/w", "differ in more than host and port"),
        ("amqp://u:p@a,amqp://u:q@b", "differ in more than host and port"),
        ("amqp://a?heartbeat=9,amqp://b", "differ in more than host and port"),
        ("amqps://h?cafile=/nowhere", "'/nowhere', the cafile .AMENDS_BROKER_CA_FILE., is no file"),
        (f"amqps://h?cafile={TLS}", "is no file"),
        (f"amqps://h?keyfile={KEY}", "a keyfile, but no certfile"),
        (f"amqp://h?cafile={CA}", "an amqp address is not encrypted; use amqps"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert re.search(reason, refusal(text))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"user": "v"}, "the user in it is another than in AMENDS_BROKER_USER"),
        ({"password": "q"}, "the password in it is another than in AMENDS_BROKER_PASSWORD"),
        ({"ca_file": KEY}, "the cafile in it is another than in AMENDS_BROKER_CA_FILE"),
        ({"cert_file": "/nowhere"}, "'/nowhere', the certfile .AMENDS_BROKER_CERT_FILE., is no"),
        ({"cert_file": "a\0b"}, "the certfile has a NUL in it"),
        ({"key_file": KEY}, "a keyfile, but no certfile"),
    ],
)
def test_what_settings_say_must_agree(given: dict[str, str], reason: str) -> None:
    assert re.search(reason, refusal(f"amqps://u:p@h?cafile={CA}", **given))


def test_settings_for_tls_are_not_passed_over() -> None:
    assert "use amqps" in refusal("amqp://h", ca_file=CA)


#: What is in a password that somebody forgot to encode, or follows it.
careless = st.text("@:/?#,%&=[]. \n")


@quick
@given(
    careless, careless, careless, st.sampled_from(["amqp://", "amqps://", "", "amqp:", "http://"])
)
@example("", "", "", "amqp://")
@example("/", "", "/v", "amqp://")
@example("%,", "://", "", "amqp://")
def test_nothing_that_is_told_of_an_address_has_a_password(
    within: str, again: str, after: str, scheme: str
) -> None:
    password = f"{within}{SECRET}{again}"
    for text in (
        f"{scheme}user:{password}@host{after}",
        f"{scheme}user:{password}{after}",
        f"{scheme}user:{password}@host,amqp://user:{password}@other{after}",
    ):
        assert SECRET not in told_of(text)


def told_of(text: str) -> str:
    try:
        address = parse(text)
    except InvalidSettings as error:
        return str(error)
    return f"{address.redacted()} {address}"


# --- TLS


def server_side() -> ssl.SSLContext:
    """A server, `broker.test`, that asks for a certificate of the same authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def shake_hands(address: BrokerAddress) -> dict[str, Any]:
    """Connect in memory; the certificate that the server was shown."""
    context = address.ssl_context()
    assert context is not None
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side().wrap_bio(up, down, server_side=True)
    client = context.wrap_bio(down, up, server_hostname=address.nodes[0].host)
    for side in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return server.getpeercert() or {}


def test_both_sides_show_their_certificates() -> None:
    address = parse("amqps://broker.test", ca_file=CA, cert_file=CERT, key_file=KEY)
    assert shake_hands(address)["subject"] == ((("commonName", "client"),),)


@pytest.mark.parametrize(
    ("host", "ca_file"), [("other.test", CA), ("broker.test", CERT), ("broker.test", None)]
)
def test_a_server_that_is_another_or_unknown_is_not_talked_to(
    host: str, ca_file: str | None
) -> None:
    address = parse(f"amqps://{host}", ca_file=ca_file, cert_file=CERT, key_file=KEY)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(address)


def test_without_tls_there_is_no_context() -> None:
    assert parse("amqp://h").ssl_context() is None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca_file": KEY}, "the cafile .*client.key.* cannot be read"),
        ({"cert_file": CA, "key_file": KEY}, "the certfile .* with the keyfile .* cannot be read"),
        ({"cert_file": CERT}, "the certfile .* with the keyfile .* cannot be read"),
        (
            {"cert_file": CERT, "key_file": str(TLS / "locked.key")},
            "the keyfile is encrypted",
        ),
    ],
)
def test_files_that_are_something_else_are_refused(files: dict[str, Any], reason: str) -> None:
    address = parse("amqps://h", **files)
    with pytest.raises(InvalidSettings, match=reason):
        address.ssl_context()


def test_a_renewed_certificate_is_taken_up_and_a_lost_one_is_an_error(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(Path(CA).read_text())
    address = parse("amqps://h", ca_file=str(ca_file))
    assert address.ssl_context() is not None
    ca_file.unlink()
    with pytest.raises(InvalidSettings, match=r"the cafile .* cannot be read: No such file"):
        address.ssl_context()
