"""From the file to the sagas: what is read, what is planned, and what is started, once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from amends import Repository, Status
from examples.payments import transfer
from examples.payments.accounts import Account
from examples.payments.batch import open_accounts, read_payments, submit
from examples.payments.folder import Folder, Refused, working_in
from examples.payments.pain001 import Batch
from examples.payments.plan import Opening, Order, Plan, amount_text, make_plan
from examples.payments.proof import prove
from examples.payments.run import kill_points
from examples.payments.sample import write_sample
from examples.payments.transfer import app, transfer_money
from tests.unit.examples.payment_xml import DE, FR, GOOD, NL, line_of

BLOCK_END = "    </PmtInf>\n"


def read(tmp_path: Path, *transactions: str) -> Batch:
    """The good file with more payments in its block."""
    path = tmp_path / "payments.xml"
    path.write_text(GOOD.replace(BLOCK_END, "".join(transactions) + BLOCK_END), encoding="utf-8")
    return read_payments(path)


def payment(id: str, payee: str, currency: str = "EUR", *, scheme: str = "IBAN") -> str:
    number = f"<IBAN>{payee}</IBAN>" if scheme == "IBAN" else f"<Othr><Id>{payee}</Id></Othr>"
    bank = f"<CdtrAgt><FinInstnId><BICFI>{scheme}</BICFI></FinInstnId></CdtrAgt>"
    return (
        f"<CdtTrfTxInf><PmtId><EndToEndId>{id}</EndToEndId></PmtId>"
        f'<Amt><InstdAmt Ccy="{currency}">1.00</InstdAmt></Amt>'
        f"{'' if scheme == 'IBAN' else bank}<Cdtr><Nm>Somebody</Nm></Cdtr>"
        f"<CdtrAcct><Id>{number}</Id></CdtrAcct></CdtTrfTxInf>\n"
    )


# --- reading


def test_an_account_is_held_in_the_currency_of_its_first_payment(tmp_path: Path) -> None:
    batch = read(tmp_path, payment("E-3", FR, "USD"), payment("E-4", FR))

    assert [p.key for p in batch.payments] == ["E-1", "E-2", "E-4"]
    (rejection,) = batch.rejected
    assert rejection.end_to_end_id == "E-3"
    assert rejection.line == line_of((tmp_path / "payments.xml").read_text(), "E-3")
    assert f"account {DE} is held in EUR" in rejection.reason


def test_what_is_rejected_teaches_nothing(tmp_path: Path) -> None:
    other = "AT611904300234573201"

    batch = read(tmp_path, payment("E-3", other, "USD"), payment("E-4", other))

    assert [p.key for p in batch.payments] == ["E-1", "E-2", "E-4"]


def test_one_number_at_two_banks_is_two_accounts(tmp_path: Path) -> None:
    banks = ("AAAADEFF", "BBBBDEFF")
    batch = read(tmp_path, *(payment(f"E-{bank}", "0815", scheme=bank) for bank in banks))

    plan = make_plan(batch.payments, 1)

    assert [order.payee for order in plan.orders[2:]] == [f"other:0815@{bank}" for bank in banks]


def test_an_id_that_cannot_be_printed_is_rejected_with_its_line(tmp_path: Path) -> None:
    batch = read(tmp_path, payment("E\u00a03", FR), payment("E-4", FR, "USD"))

    assert [p.key for p in batch.payments] == ["E-1", "E-2"]
    assert [r.end_to_end_id for r in batch.rejected] == ["E\u00a03", "E-4"]
    assert "cannot be printed" in batch.rejected[0].reason


# --- planning


def planned(tmp_path: Path, seed: int = 1) -> Plan:
    write_sample(tmp_path / "payments.xml", payments=400, accounts=40, seed=5)
    return make_plan(read_payments(tmp_path / "payments.xml").payments, seed)


def test_the_plan_makes_some_payments_fail(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    spent = Counter[str]()
    for order in plan.orders:
        spent[order.payer] += order.cents
    openings = {opening.account: opening for opening in plan.openings}
    above = [o for o in plan.orders if o.cents > openings[o.payer].limit_cents]

    assert len(openings) == 40
    assert len([o for o in plan.openings if o.frozen]) == 2
    assert {a for a, o in openings.items() if o.cents < spent[a]} == {
        a for a, o in openings.items() if o.poor
    }
    assert len([o for o in plan.openings if o.poor]) == 3
    assert 1 <= len(above) <= 8


def test_a_plan_is_the_same_for_a_seed_and_survives_being_written(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    plan.save(tmp_path / "plan.json")

    assert planned(tmp_path) == plan == Plan.load(tmp_path / "plan.json")
    assert planned(tmp_path, seed=2).openings != plan.openings


def test_a_small_file_is_paid_as_it_is(tmp_path: Path) -> None:
    plan = make_plan(read(tmp_path).payments, 1)

    assert {opening.account for opening in plan.openings} == {DE, FR, NL}
    assert not any(opening.poor or opening.frozen for opening in plan.openings)
    assert all(order.cents <= plan.openings[0].limit_cents for order in plan.orders)


@pytest.mark.parametrize(
    ("cents", "currency", "text"),
    [
        (123456789, "EUR", "1,234,567.89 EUR"),
        (-5, "EUR", "-0.05 EUR"),
        (1234, "JPY", "1,234 JPY"),
        (1234, "KWD", "1.234 KWD"),
        (7, "?", "0.07 ?"),
    ],
)
def test_amounts_for_people(cents: int, currency: str, text: str) -> None:
    assert amount_text(cents, currency) == text


@pytest.mark.parametrize(("total", "kills"), [(1, 1), (3, 5), (120, 3), (1000, 5), (10, 0)])
def test_kills_fall_while_there_is_work(total: int, kills: int) -> None:
    points = kill_points(total, kills, seed=7)

    assert points == sorted(points) == kill_points(total, kills, seed=7)
    assert len(points) == kills
    assert all(0 <= point < total for point in points)


# --- the folder of a run


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    with working_in(tmp_path / "run") as folder:
        folder.keep_plan(PLAN)
        folder.keep_plan(PLAN)
        with pytest.raises(Refused, match="another file or seed"):
            folder.keep_plan(PLAN.model_copy(update={"orders": ()}))
        folder.plan.write_text("{")
        with pytest.raises(Refused, match="another file or seed"):
            folder.keep_plan(PLAN)


def test_one_run_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with working_in(tmp_path), pytest.raises(Refused, match="another run"), working_in(tmp_path):
        pass


def test_only_what_the_demo_wrote_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with working_in(None) as folder:
        folder.keep_plan(PLAN)
        folder.store.write_text("old")
        (folder.path / "mine.txt").write_text("keep me")

    with working_in(None) as folder:
        assert not folder.plan.exists()
        assert not folder.store.exists()
        assert (folder.path / "mine.txt").read_text() == "keep me"


async def test_a_store_that_an_engine_runs_on_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with working_in(None) as folder:
        pass
    async with app.run(folder.store):
        with pytest.raises(Refused, match="an engine runs on"), working_in(None):
            pass
    with working_in(None) as folder:
        assert not folder.store.exists()


def test_a_given_folder_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    Folder(tmp_path / "given").keep_plan(PLAN)
    with working_in(tmp_path / "given") as folder:
        assert folder.plan.exists()


# --- submitting

PLAN = Plan(
    orders=tuple(
        Order(key=f"p{n}", payer="A", payee="C" if n == 3 else "B", cents=100 * n, currency="EUR")
        for n in range(1, 7)
    ),
    openings=(
        Opening(account="A", currency="EUR", cents=1550, limit_cents=500),
        Opening(account="B", currency="EUR", cents=0, limit_cents=500),
        Opening(account="C", currency="EUR", cents=0, limit_cents=500, frozen=True),
    ),
)


@pytest.fixture
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes wrong outside."""
    for name in ("LEDGER_TROUBLE", "BANK_TROUBLE", "MAIL_TROUBLE"):
        monkeypatch.setattr(transfer, name, {})


@pytest.mark.usefixtures("_calm")
async def test_a_file_that_is_submitted_again_pays_nothing_twice(tmp_path: Path) -> None:
    db = tmp_path / "payments.db"
    async with app.run(db) as client:
        for _ in range(2):
            await open_accounts(client, PLAN)
            await submit(client, PLAN)
        # The inbox is taken in order: once this one is done, all of the above were seen.
        last = Order(key="last", payer="A", payee="B", cents=1, currency="EUR")
        everything = PLAN.model_copy(update={"orders": (*PLAN.orders, last)})
        await submit(client, everything)
        handles = {
            order.key: client.handle(transfer_money, order.key) for order in everything.orders
        }
        for handle in handles.values():
            await client.wait_for_end(handle.instance, timeout=30)
        endings = {key: await handle.status() for key, handle in handles.items()}
        before = await client.backend.store.end()

        await open_accounts(client, PLAN)
        await submit(client, PLAN)
        fence = last.model_copy(update={"key": "fence"})
        await submit(client, everything.model_copy(update={"orders": (fence,)}))
        await client.wait_for_end(client.handle(transfer_money, "fence").instance, timeout=30)
        written = await client.backend.store.read_all(before)
        balances = {
            o.account: (await Repository(client.backend.store, Account).load(o.account)).cents
            for o in PLAN.openings
        }

    assert endings == {
        "p1": Status.COMPLETED,
        "p2": Status.COMPLETED,
        "p3": Status.COMPENSATED,
        "p4": Status.COMPLETED,
        "p5": Status.COMPLETED,
        "p6": Status.FAILED,
        "last": Status.COMPLETED,
    }
    assert {event.stream for event in written} == {
        "saga.transfer_money-fence", "account-A", "account-B",
    }  # fmt: skip
    assert balances == {"A": 348, "B": 1202, "C": 0}
    ordered = (*everything.orders, fence)
    assert all(claim.holds for claim in prove(db, PLAN.model_copy(update={"orders": ordered})))
