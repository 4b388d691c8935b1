"""Where EventStoreDB is: every part is read as it was meant, or refused with the reason and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amends.errors import InvalidSettings
from amends.stores.eventstoredb import StoreAddress

TLS = Path(__file__).resolve().parents[3] / "data" / "tls"
CA, CERT, KEY = (str(TLS / name) for name in ("ca.pem", "client.pem", "client.key"))
SECRET = "hunter2"

quick = settings(max_examples=200, deadline=None, derandomize=True)
texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9
)
hosts = st.lists(
    st.tuples(st.sampled_from(["h", "a.b-c", "10.0.0.1", "[::1]"]), st.integers(1, 65535)),
    min_size=1,
    max_size=3,
)

parse = StoreAddress.parse


def refusal(text: str, **given: Any) -> str:
    """What is told of an address that cannot be used; never its password."""
    with pytest.raises(InvalidSettings, match="AMENDS_STORE cannot be used") as refused:
        parse(text, **given)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_what_an_address_leaves_open() -> None:
    address = parse("esdb://h")
    assert address.targets == ("h:2113",)
    assert not address.discovers
    assert address.tls
    assert (address.user, address.password) == (None, None)
    assert address.node_preference == "leader"
    assert (address.keep_alive_interval_s, address.keep_alive_timeout_s) == (10.0, 10.0)
    assert address.gossip_timeout_s == 5.0


@quick
@given(hosts, texts, texts)
@example([("h", 1)], "a@b", "p/?#[]@:,%41 +&=")
def test_every_part_is_read_as_it_was_meant(
    where: list[tuple[str, int]], user: str, password: str
) -> None:
    named = ",".join(f"{host}:{port}" for host, port in where)
    address = parse(f"esdb://{quote(user, safe='')}:{quote(password, safe='')}@{named}/?tls=true")
    assert address.targets == tuple(f"{host}:{port}" for host, port in where)
    assert (address.user, address.password) == (user, password)
    assert address.discovers == (len(where) > 1)
    assert parse(f"esdb://{named}", user=user, password=password) == address
    assert SECRET not in repr(parse(f"esdb://u:{SECRET}@{named}"))


@pytest.mark.parametrize("scheme", ["esdb", "kurrentdb", "kurrent", "kdb", "ESDB"])
def test_every_name_of_the_server(scheme: str) -> None:
    assert parse(f"{scheme}://h") == parse("esdb://h")
    address = parse(f"{scheme}+discover://h")
    assert address.discovers
    assert address.targets == ("h:2113",)


def test_parameters_are_read_whatever_their_case() -> None:
    address = parse(
        "esdb://h?TLS=False&NodePreference=Follower&connectionName=bank&keepAliveInterval=5000"
        "&KeepAliveTimeout=2500&gossipTimeout=3&maxDiscoverAttempts=5&defaultDeadline=3"
    )
    assert not address.tls
    assert (address.node_preference, address.connection_name) == ("follower", "bank")
    assert (address.keep_alive_interval_s, address.keep_alive_timeout_s) == (5.0, 2.5)
    assert address.gossip_timeout_s == 3.0


def test_what_the_address_leaves_open_settings_say() -> None:
    in_address = f"esdb://u:p@h?tlsCaFile={CA}&userCertFile={CERT}&userKeyFile={KEY}"
    address = parse("esdb://h", user="u", password="p", ca_file=CA, cert_file=CERT, key_file=KEY)
    assert parse(in_address) == address
    assert (address.ca_file, address.cert_file, address.key_file) == (CA, CERT, KEY)
    assert parse(in_address, user="u", password="p", ca_file=CA, cert_file="") == address


def test_what_is_logged_has_no_password() -> None:
    assert parse(f"esdb://u:{SECRET}@a,b:1?tls=true").redacted() == "esdb://u@a:2113,b:1"
    assert parse("esdb://h").redacted() == "esdb://h:2113"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with esdb://"),
        ("localhost:2113", "begins with esdb://"),
        ("http://h", "begins with esdb://"),
        (f"esdb+gossip://u:{SECRET}@h", "begins with esdb://"),
        ("esdb://", "has no host"),
        (f"esdb://u:{SECRET}@", "has no host"),
        ("esdb://a,,b", "has no host"),
        ("esdb://a b", "a host is"),
        ("esdb://ä", "a host is"),
        ("esdb://[::zz]", "no IPv6 address"),
        ("esdb://h:x", "a port is a number"),
        ("esdb://h:0", "a port is a number"),
        ("esdb://h:65536", "a port is a number"),
        (f"esdb://u:{SECRET}", "a password that lacks its '@host'"),
        (f"esdb://u:{SECRET}@x@h", "write '@' as %40"),
        (f"esdb://u:{SECRET}/x@h", "write '@' as %40"),
        ("esdb://h/db", "esdb://user:password@host"),
        (f"esdb://u:{SECRET}%@h", "'%' is written %25"),
        (f"esdb://u:{SECRET}%ff@h", "is not UTF-8"),
        (f"esdb://u:{SECRET}%00@h", "has a NUL"),
        ("esdb://u@h", "a user without a password"),
        (f"esdb://:{SECRET}@h", "a password without a user"),
        ("esdb+discover://a,b", "there is one host"),
        ("esdb://h?tsl=true", "none of those there are: tls, tlsVerifyCert"),
        ("esdb://h?tls=true&TLS=true", "tls is there twice"),
        ("esdb://h?tls=yes", "tls is true or false"),
        ("esdb://h?tlsVerifyCert=false", "AMENDS_STORE_CA_FILE"),
        ("esdb://h?nodePreference=any", "leader, follower, readonlyreplica, random"),
        ("esdb://h?keepAliveInterval=10s", "a whole number of milliseconds"),
        ("esdb://h?keepAliveTimeout=0", "a whole number of milliseconds"),
        ("esdb://h?gossipTimeout=-1", "a whole number of seconds"),
        ("esdb://h?connectionName=a%0Ab", "printable"),
        ("esdb://h?tlsCaFile=/nowhere", "'/nowhere', the tlscafile"),
        (f"esdb://h?userCertFile={CERT}", "certificate and its key come together"),
        (f"esdb://h?tls=false&tlsCaFile={CA}", "says tls=false"),
    ],
)
def test_a_wrong_one_is_explained(text: str, reason: str) -> None:
    assert reason in refusal(text)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"user": "other"}, "the user in it is another than in AMENDS_STORE_USER"),
        ({"password": "other"}, "the password in it is another than in AMENDS_STORE_PASSWORD"),
        ({"ca_file": KEY}, "the tlscafile in it is another than in AMENDS_STORE_CA_FILE"),
        ({"cert_file": "/nowhere"}, "the usercertfile (AMENDS_STORE_CERT_FILE)"),
        ({"user": "u\udcff"}, "another than"),
    ],
)
def test_what_is_said_twice_must_be_the_same(given: dict[str, str], reason: str) -> None:
    assert reason in refusal(f"esdb://u:{SECRET}@h?tlsCaFile={CA}", **given)
