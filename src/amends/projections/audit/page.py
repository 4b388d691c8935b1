"""A bundle as a page for people, to be read and printed. The bundle is what proves it."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from pydantic_core import from_json, to_json

from amends.domain.ids import InstanceId
from amends.projections.audit.bundle import Bundle, BundledRecord, Segment
from amends.projections.audit.canonical import digest


def page(bundle: Bundle, file: str, data: bytes) -> str:
    """The page about a bundle, which is in a file of this name with these bytes."""
    events = bundle.events
    template = Template(files(__package__).joinpath("page.html").read_text("utf-8"))
    values = {
        "name": str(InstanceId.of_stream(bundle.stream) or bundle.stream),
        "count": "1 event" if len(events) == 1 else f"{len(events):,} events",
        "first": _moment(events[0].recorded_at),
        "last": _moment(events[-1].recorded_at),
        "stream": bundle.stream,
        "made_at": f"{_moment(bundle.made_at)} UTC",
        "made_by": bundle.made_by,
        "file": file,
        "sha256": digest(data).hex(),
    }
    rows = [
        _event(record)
        for segment in bundle.segments
        for record in segment.records
        if isinstance(record, BundledRecord)
    ]
    return template.substitute(
        {name: escape(value) for name, value in values.items()},
        events="\n".join(rows),
        segments="\n".join(_segment(segment) for segment in bundle.segments),
    )


def _event(record: BundledRecord) -> str:
    event = record.event
    return (
        f'<tr><td class="number">{event.version}</td>'
        f'<td class="time">{escape(_moment(event.recorded_at))}</td>'
        f"<td><strong>{escape(event.type)}</strong><pre>{escape(_pretty(event.data))}</pre></td>"
        f'<td class="number">{record.n:,}</td></tr>'
    )


def _segment(segment: Segment) -> str:
    checkpoint = segment.checkpoint
    lines = (
        f"hash {checkpoint.hash}\nkey {checkpoint.key}\nsignature {checkpoint.signature}\n"
        f"position {checkpoint.position}, {_moment(checkpoint.at)} UTC"
    )
    return (
        f'<tr><td class="time">{segment.first:,} to {checkpoint.n:,}</td>'
        f'<td class="time">{checkpoint.n:,}</td><td><pre>{escape(lines)}</pre></td></tr>'
    )


def _moment(text: str) -> str:
    """To the millisecond; the bundle has it exactly."""
    return text.partition("+")[0].replace("T", " ")[:23]


def _pretty(data: str) -> str:
    try:
        return to_json(from_json(data), indent=2).decode()
    except ValueError:
        return data
