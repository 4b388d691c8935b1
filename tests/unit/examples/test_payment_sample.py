"""The generated payment file: valid, the same for a seed, and read back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.payments.pain001 import parse_iban, read_batch
from examples.payments.sample import SEED_MAX, Fault, make_sample, sample_xml, write_sample
from tests.unit.examples.test_pain001 import VERSIONS


@settings(deadline=None, max_examples=50)
@given(
    payments=st.integers(1, 60),
    accounts=st.integers(2, 30),
    seed=st.integers(0, SEED_MAX),
    version=st.sampled_from(VERSIONS),
)
def test_what_is_written_is_read(payments: int, accounts: int, seed: int, version: str) -> None:
    sample = make_sample(payments=payments, accounts=accounts, seed=seed)

    batch = read_batch(sample_xml(sample, seed=seed, version=version), accounts=sample.currencies)

    assert (batch.rejected, batch.findings) == ([], [])
    assert batch.message_id == f"SAMPLE-{seed}-{payments}"
    assert [
        ((p.payer.name, p.payer.account), (p.payee.name, p.payee.account), p.amount.cents)
        for p in batch.payments
    ] == [
        (
            (sample.accounts[p.payer].name, sample.accounts[p.payer].iban),
            (sample.accounts[p.payee].name, sample.accounts[p.payee].iban),
            p.cents,
        )
        for p in sample.payments
    ]
    assert sum(p.amount.cents for p in batch.payments) == sample.total.cents


def test_the_default_file_is_a_thousand_payments_between_a_hundred_accounts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "batch.xml"

    sample = write_sample(path)
    batch = read_batch(path)

    assert batch.version == "09"
    assert len(batch.payments) == 1000
    assert [payment.end_to_end_id for payment in batch.payments] == [
        f"E2E-{number:06}" for number in range(1, 1001)
    ]
    assert len(sample.accounts) == len({account.iban for account in sample.accounts}) == 100
    assert len({account.iban[:2] for account in sample.accounts}) == 10
    assert all(parse_iban(account.iban) == account.iban for account in sample.accounts)
    assert sample.accounts[16].name == "Account 017"
    assert path.read_bytes() == sample_xml(sample)


def test_a_seed_names_a_file() -> None:
    def xml(seed: int) -> bytes:
        return sample_xml(make_sample(payments=20, seed=seed), seed=seed)

    assert xml(1) == xml(1)
    assert xml(1) != xml(2)
    assert make_sample(seed=1).payments != make_sample(seed=2).payments


@pytest.mark.parametrize(
    ("country", "example"),
    [
        ("BE", "BE68539007547034"),
        ("ES", "ES9121000418450200051332"),
        ("FR", "FR7630006000011234567890189"),
    ],
)
def test_national_check_figures_are_right_too(country: str, example: str) -> None:
    ibans = [account.iban for account in make_sample(accounts=300).accounts]
    mine = [iban for iban in ibans if iban.startswith(country)]

    assert len(mine) == 30
    assert all(national_check_fits(iban) for iban in (example, *mine))


def national_check_fits(iban: str) -> bool:
    """Each rule written the other way round than in the generator: as a remainder that is zero."""
    bban = iban[4:]
    if iban.startswith("BE"):
        return (int(bban[:10]) - int(bban[10:])) % 97 == 0 and bban[10:] != "00"
    if iban.startswith("FR"):
        return int(bban) % 97 == 0
    return spanish_half_fits("00" + bban[:8], bban[8]) and spanish_half_fits(bban[10:], bban[9])


def spanish_half_fits(half: str, figure: str) -> bool:
    weighted = sum(int(f) * pow(2, n, 11) for n, f in enumerate(half))
    # Ten does not fit one place: the figure 1 stands for it too.
    return any(
        (weighted + check) % 11 == 0 for check in ({"1": (1, 10)}.get(figure) or (int(figure),))
    )


@pytest.mark.parametrize(
    ("payments", "accounts", "seed", "reason"),
    [
        (0, 100, 1, "at least one payment and two accounts"),
        (10, 1, 1, "at least one payment and two accounts"),
        (10, 100, -1, "a seed is between 0 and"),
        (10, 100, SEED_MAX + 1, "a seed is between 0 and"),
    ],
)
def test_a_sample_that_cannot_be_made(payments: int, accounts: int, seed: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_sample(payments=payments, accounts=accounts, seed=seed)


def test_a_large_file_is_written_with_ids_that_stay_apart(tmp_path: Path) -> None:
    sample = make_sample(payments=3000, accounts=150, seed=9)

    batch = read_batch(sample_xml(sample, seed=9))

    assert len({payment.key for payment in batch.payments}) == 3000
    assert len({payment.payment_info_id for payment in batch.payments}) == 150


REASONS = {
    Fault.MISTYPED_IBAN: "has wrong check digits: a figure is mistyped",
    Fault.DECIMAL_COMMA: "is not a decimal number",
    Fault.OTHER_CURRENCY: "the amount is in USD, but the payer's account",
    Fault.NO_AMOUNT: "the amount '0.00' is zero",
    Fault.TO_ITSELF: "payer and payee are one account",
    Fault.USED_ID: "'E2E-000001' was the id of line",
}


@pytest.mark.parametrize("seed", range(5))
def test_each_spoiled_payment_is_rejected_for_what_is_wrong_with_it(seed: int) -> None:
    sample = make_sample(payments=40, accounts=6, seed=seed, spoiled=2 * len(Fault))

    batch = read_batch(sample_xml(sample, seed=seed), accounts=sample.currencies)

    faults = [payment.fault for payment in sample.payments if payment.fault is not None]
    assert sorted(faults) == sorted([*Fault, *Fault])
    assert len(batch.payments) == 40
    for fault, rejection in zip(faults, batch.rejected, strict=True):
        assert REASONS[fault] in rejection.reason
        assert rejection.reason.count(";") == (1 if fault is Fault.OTHER_CURRENCY else 0)
    # The sender's sums are over everything; only an amount that is no number spoils them too.
    assert batch.findings
    assert all("amounts that are no numbers" in finding.message for finding in batch.findings)


def test_spoiled_payments_change_nothing_about_the_others() -> None:
    sound = make_sample(payments=50, seed=4)
    spoiled = make_sample(payments=50, seed=4, spoiled=3)

    assert spoiled.accounts == sound.accounts
    assert tuple(p for p in spoiled.payments if p.fault is None) == sound.payments
    assert len(spoiled.payments) == 53
