"""What goes over the wire is what it was when somebody looked at it."""

from tests.integration.eventstoredb.recording import FILE, recorded, text_of


async def test_every_method_sends_what_is_on_record() -> None:
    assert text_of(await recorded()) == FILE.read_text(), (
        "the requests have changed. If that is meant, run "
        "python -m tests.integration.eventstoredb.recording, and look at the difference"
    )
