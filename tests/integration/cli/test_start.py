"""`amends start`: an input is checked, durable, and waited for if asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cli.conftest import APP, Amends, Process

ORDER = '{"payer":"anna","payee":"bert","amount":5}'
NOW = ("--confirm", "0")


def test_without_an_engine_it_is_durable_and_starts_later(amends: Amends) -> None:
    ran = amends.ok("start", APP, "transfer", ORDER, "--id", "t-1", *NOW)
    assert ran.out == "transfer/t-1\n"
    assert "durable, but no engine took it up" in ran.err
    amends.settle("transfer/t-1")
    assert amends.state("transfer/t-1") == "completed"


def test_json_says_whether_an_engine_took_it_up(amends: Amends) -> None:
    ran = amends.ok("start", APP, "approve", "--id", "a", *NOW, "--json")
    assert ran.json == [{"instance": "approve/a", "saga": "approve", "id": "a", "confirmed": False}]


def test_an_id_is_made_up_when_none_is_given(amends: Amends) -> None:
    one, other = (amends.ok("start", APP, "approve", *NOW).out for _ in range(2))
    assert one.startswith("approve/")
    assert one != other


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_the_input_may_come_from_elsewhere(amends: Amends, how: str) -> None:
    Path("order.json").write_text(ORDER)
    input = {"file": "@order.json", "stdin": "-"}[how]
    amends.ok("start", APP, "transfer", input, "--id", "t", *NOW, stdin=ORDER)
    amends.settle("transfer/t")
    first = amends.ok("show", "transfer/t", "--json").json[0]
    assert first["data"]["input"] == {**json.loads(ORDER), "memo": ""}


def test_with_wait_it_gives_the_result(amends: Amends, processes: Callable[..., Process]) -> None:
    processes("dev", APP).wait_for("Ctrl-C")
    ran = amends.ok("start", APP, "transfer", ORDER, "--id", "t", "--wait", "--json")
    assert ran.json[0] == {
        "instance": "transfer/t",
        "saga": "transfer",
        "id": "t",
        "confirmed": True,
        "state": "completed",
        "result": "paid to bert",
        "error": None,
    }
    again = amends.ok("start", APP, "transfer", ORDER, "--id", "t", "--wait")
    assert again.out == 'transfer/t  completed  "paid to bert"\n'


def test_with_wait_a_saga_that_did_not_complete_is_code_4(
    amends: Amends, processes: Callable[..., Process]
) -> None:
    processes("dev", APP).wait_for("Ctrl-C")
    order = ORDER.replace("bert", "closed")
    ran = amends("start", APP, "transfer", order, "--id", "t", "--wait")
    assert ran.code == 4
    assert ran.out == "transfer/t  compensated  AccountClosed: account closed is closed\n"
    ran = amends("start", APP, "transfer", order, "--id", "t", "--wait", "--json")
    assert ran.code == 4
    assert ran.json[0]["error"]["type"] == "AccountClosed"


def test_whoever_waits_is_told_of_trouble(
    amends: Amends, processes: Callable[..., Process]
) -> None:
    processes("dev", APP).wait_for("Ctrl-C")
    start = processes(
        "start", APP, "transfer", '{"payer":"jammed","payee":"closed","amount":5}',
        "--id", "t", "--wait",
    )  # fmt: skip
    start.wait_for("transfer/t is parked: the bank does not answer", where="err")
    amends.ok("resolve", "transfer/t", "skip", "--why", "test")
    assert start.end().code == 4


def test_waiting_has_an_end(amends: Amends) -> None:
    ran = amends("start", APP, "approve", "--id", "a", *NOW, "--wait", "--timeout", "0")
    assert ran.code == 4
    assert "did not end within 0 s. It goes on" in ran.err


def test_another_input_under_the_same_id_is_refused(amends: Amends) -> None:
    amends.transfer("t")
    ran = amends("start", APP, "transfer", ORDER.replace("bert", "carla"), "--id", "t")
    assert ran.code == 1
    assert "exists already with another input" in ran.err


@pytest.mark.parametrize(
    ("input", "said"),
    [
        ('{"payer":"anna","payee":7,"amount":5}', "payee: Input should be a valid string"),
        ('{"payer":"anna","payee":"bert","amount":0}', "amount: Input should be greater than 0"),
        ('{"payer":"anna"}', "amount: Field required"),
        ("[]", "the whole: Input should be"),
        ("{", "INPUT is not JSON"),
        ("@nowhere.json", "nowhere.json"),
    ],
)
def test_a_wrong_input_is_a_usage_error_that_names_its_place(
    amends: Amends, input: str, said: str
) -> None:
    ran = amends("start", APP, "transfer", input, *NOW)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert not Path("amends.db").exists()


def test_a_missing_input_says_what_it_takes(amends: Amends) -> None:
    ran = amends("start", APP, "transfer")
    assert ran.code == 2
    assert "transfer takes: payer, payee, amount, memo?" in ran.err


def test_an_unknown_saga_is_a_usage_error_that_says_what_there_is(amends: Amends) -> None:
    ran = amends("start", APP, "transfre", ORDER)
    assert ran.code == 2
    assert "it has: approve, buggy, sleepy, transfer" in ran.err


def test_a_bad_id_is_a_usage_error(amends: Amends) -> None:
    ran = amends("start", APP, "approve", "--id", "a\nb", *NOW)
    assert ran.code == 2
    assert "cannot be an id" in ran.err
