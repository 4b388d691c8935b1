"""The audit trail of a run: the worker keeps it, through all kills, and it is verified at the end."""

from __future__ import annotations

from typing import Final

from amends import Client, Settings
from amends.projections.audit.keys import SigningKey
from amends.projections.audit.verify import verify
from examples.payments.folder import Folder
from examples.payments.proof import Claim

#: More often than by default, so that a short run has checkpoints too.
EVERY: Final = 100
#: How long what is left of the trail may take when all payments are settled.
CATCH_UP_S: Final = 60.0


def settings_of(folder: Folder) -> Settings:
    """Settings of a run; its pair of keys is made when it is new. Raises KeyUnusable."""
    if not folder.key.exists():
        SigningKey.new().save(folder.key, folder.public_key)
    return Settings(
        store=f"sqlite:///{folder.store}",
        audit_key_file=str(folder.key.absolute()),
        audit_every=EVERY,
        # A worker that was killed gives nothing back: the next one should not wait long for it.
        projections_lease_s=1,
    )


async def verified(client: Client, folder: Folder) -> Claim:
    """Whether the log is what was recorded, when the trail has caught up with it."""
    await client.projections.caught_up("audit", timeout=CATCH_UP_S)
    key = SigningKey.load(folder.key).public
    found = await verify(client.backend.store, client.projections.database, {key.id: key})
    wrong = found.difference
    return Claim(
        "the log is what was recorded",
        f"{found.records:,} records, {found.checkpoints:,} signed checkpoints",
        () if wrong is None else (f"position {wrong.position}: {wrong.what}",),
    )
