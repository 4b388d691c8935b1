"""Our figures beside a peer's: both run the same workloads in turn, in the same minutes.

    PEER_PYTHON=… PEER_SCRIPT=… python -m benchmarks.compare

A table in Markdown on stdout, progress on stderr. The environment chooses:

PEER_SCRIPT  the peer's script. It is called with the name of a workload in lower case, and prints
             JSON rows; see `ours_of` for the fields that are understood
PEER_PYTHON  the interpreter for it; default: ours
PEER_ARGS    what the script wants before the workload's name
WORKLOADS    default: W1 W2 W3 W4 W5 W6. A name may go on in what only the peer knows: for W6SRV
             we run W6, and the peer `w6srv`; and behind a slash in what only we know: for
             W1/rabbitmq, or W1/64/rabbitmq/3, we run that, and the peer `w1`
ROUNDS       how often each workload is run, 3; who begins changes from round to round
KEEP         a file for all rows. The table covers those that it has from before, too; without
             PEER_SCRIPT nothing is run, and it is their table

Whatever else the peer needs, it finds in its environment. A ratio is that of one round, so that
both sides had the same minutes: above 1 we are ahead. `others' CPUs` says how many CPUs other
programs kept busy while one of the two ran: where that differs, the ratio does not compare.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.measure import CpuMeter, rounded

Row = dict[str, Any]

OURS: Final = "Amends"


class Figure(NamedTuple):
    """One figure of a table, by the name that it has in our rows."""

    field: str
    heading: str
    more_is_better: bool = False
    has_ratio: bool = True


PER_S: Final = Figure("per_s", "sagas/s", more_is_better=True)
STEPS_PER_S: Final = Figure("steps_per_s", "steps/s", more_is_better=True)
P50: Final = Figure("p50_ms", "p50 ms")
P99: Final = Figure("p99_ms", "p99 ms")
CPU: Final = Figure("cpu_s_per_1000", "CPU s per 1,000")

#: What is compared of each workload.
FIGURES: Final[Mapping[str, Sequence[Figure]]] = {
    "W1": (PER_S, P50, P99, CPU),
    "W2": (STEPS_PER_S, CPU),
    "W3": (PER_S, CPU),
    "W4": (STEPS_PER_S, CPU),
    "W5": (PER_S._replace(heading="starts/s"), Figure("rss_per_sleeper_bytes", "bytes a sleeper")),
    "W6": (
        Figure("recovered_s", "recovered in s"),
        Figure("steps_twice", "steps run twice", has_ratio=False),
    ),
}

#: What of a workload the peer runs too, where that is not all.
OUR_KEYS: Final = {"W5": "W5/starts"}

#: The peer's names for our fields.
PEERS_NAMES: Final = {
    "wf_per_s": "per_s",
    "starts_per_s": "per_s",
    "cpu_s_per_1000_wf": "cpu_s_per_1000",
    "recover_s": "recovered_s",
    "steps_more_than_once": "steps_twice",
    "kill_after_ack_s": "killed_after_s",
}


def ours_of(peers: Row) -> Row:
    """A row of the peer's as one of ours: our names, our units, the client's CPU time included."""
    row = {PEERS_NAMES.get(name, name): value for name, value in peers.items()}
    row["workload"] = str(row["workload"]).removesuffix("seq")
    client_s = peers.get("client_cpu_s_per_1000_wf")
    if client_s is not None:
        row["cpu_s_per_1000"] += client_s
    for name in ("rss_kb_per_sleeper", "engine_rss_kb_per_sleeper"):
        if name in peers:
            row["rss_per_sleeper_bytes"] = peers[name] * 1000
    return row


@dataclass(frozen=True)
class Taken:
    """A row that was measured: whose, in which round, for which word on the command line."""

    who: str
    round: int
    word: str
    others_cpus: float
    row: Row

    @property
    def part(self) -> str:
        """Which part of a workload it is about, in words; both sides have the same."""
        if "killed_after_s" in self.row:
            after_s = self.row["killed_after_s"]
            return f"killed {after_s:g} s later" if after_s else "killed at once"
        inflight = self.row.get("inflight")
        if self.row["workload"] == "W5" or inflight is None:
            return ""
        return "one at a time" if inflight == 1 else f"{inflight} in flight"

    def has(self, figure: Figure) -> bool:
        """Whether it tells of a figure."""
        return self.row.get(figure.field) is not None


# --- running


def take(
    words: Sequence[str], rounds: Iterable[int], environment: Mapping[str, str]
) -> Iterator[Taken]:
    """Run both, in turn."""
    for number in rounds:
        for word in words:
            sides = [_ours, _peers]
            for side in sides if number % 2 == 0 else reversed(sides):
                yield from side(word, number, environment)


def _ours(word: str, number: int, environment: Mapping[str, str]) -> list[Taken]:
    command = [sys.executable, "-m", "benchmarks.run"]
    name, (_, *ours) = _workload(word), word.split("/")
    # In full, as the peer does it.
    wanted = {
        "WORKLOADS": "/".join([OUR_KEYS.get(name, name), *ours]),
        "REPEATS": "1",
        "SCALE": "1",
    }
    rows, others_cpus = _run(command, {**environment, **wanted})
    return [Taken(OURS, number, word, others_cpus, row) for row in rows]


def _peers(word: str, number: int, environment: Mapping[str, str]) -> list[Taken]:
    python = environment.get("PEER_PYTHON") or sys.executable
    script = Path(environment["PEER_SCRIPT"])
    theirs, *_ = word.lower().split("/")
    command = [python, str(script), *environment.get("PEER_ARGS", "").split(), theirs]
    rows, others_cpus = _run(command, {**environment, "BENCH_REPEATS": "1"})
    return [
        Taken(str(row.get("peer", script.stem)), number, word, others_cpus, ours_of(row))
        for row in rows
    ]


def _workload(word: str) -> str:
    """Our name for a workload that may have more of a name at the peer."""
    found = re.match(r"W\d+", word.upper())
    if found is None or found[0] not in FIGURES:
        raise SystemExit(f"{word!r} is no workload to compare; there are: {' '.join(FIGURES)}")
    return found[0]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[list[Row], float]:
    """The rows that a program prints, none if it failed; and what others did meanwhile."""
    with CpuMeter() as cpu:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{shlex.join(command)} ended with {done.returncode}, and counts for nothing:"
        print(said, done.stderr[-2000:], sep="\n", file=sys.stderr)
        return [], cpu.others_cpus
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return rows, cpu.others_cpus


# --- the table


def tables(taken: Sequence[Taken]) -> str:
    """What was measured, in Markdown, for each peer: medians, and from where to where they went."""
    peers = sorted({each.who for each in taken} - {OURS})
    return "\n\n".join(f"{_heading(peer, taken)}\n\n{_table(peer, taken)}" for peer in peers)


def _heading(peer: str, taken: Sequence[Taken]) -> str:
    theirs = [each for each in taken if each.who == peer]
    versions = dict.fromkeys(each.row.get("versions", peer) for each in theirs)
    rounds = len({each.round for each in theirs})
    return f"Beside {' and '.join(versions)}; rounds: {rounds}. Medians (from – to)."


def _table(peer: str, taken: Sequence[Taken]) -> str:
    lines = [
        f"| | {OURS} | {peer} | ratio | others' CPUs, ours – theirs |",
        "|---|---|---|---|---|",
    ]
    places = dict.fromkeys((each.word, each.part) for each in taken)
    for word, part in places:
        here = [each for each in taken if (each.word, each.part) == (word, part)]
        ours = {each.round: each for each in here if each.who == OURS}
        theirs = {each.round: each for each in here if each.who == peer}
        rounds = [(ours[number], theirs[number]) for number in ours if number in theirs]
        for figure in FIGURES[_workload(word)]:
            both = [pair for pair in rounds if all(each.has(figure) for each in pair)]
            if both:
                name = ", ".join(filter(None, (word, part, figure.heading)))
                lines.append(f"| {name} | {' | '.join(_cells(figure, both))} |")
    return "\n".join(lines)


def _cells(figure: Figure, rounds: Sequence[tuple[Taken, Taken]]) -> list[str]:
    sides = list(zip(*rounds, strict=True))
    ratios = []
    for ours, theirs in rounds:
        over, under = ours.row[figure.field], theirs.row[figure.field]
        if not figure.more_is_better:
            over, under = under, over
        if figure.has_ratio and under:
            ratios.append(over / under)
    return [
        *(_spread([each.row[figure.field] for each in side]) for side in sides),
        _spread(ratios),
        " – ".join(f"{median(each.others_cpus for each in side):.1f}" for side in sides),
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, middle, high = (_digits(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} – {high})"


def _digits(value: float) -> str:
    return f"{rounded(value):,}" if abs(value) >= 10 else f"{value:.2g}"


# --- what is kept


def kept(file: Path) -> list[Taken]:
    """The rows of a file; none if there is no such file yet."""
    if not file.is_file():
        return []
    return [Taken(**json.loads(line)) for line in file.read_text().splitlines()]


def main() -> None:
    """Compare what the environment chooses."""
    environment = dict(os.environ)
    keep = Path(environment.get("KEEP") or os.devnull)
    taken = kept(keep)
    if environment.get("PEER_SCRIPT"):
        words = environment.get("WORKLOADS", "").split() or list(FIGURES)
        for word in words:
            _workload(word)
        first = max((each.round for each in taken), default=-1) + 1
        rounds = range(first, first + int(environment.get("ROUNDS", "3")))
        with keep.open("a") as file:
            for each in take(words, rounds, environment):
                print(_progress(each), file=sys.stderr, flush=True)
                print(json.dumps(asdict(each)), file=file, flush=True)
                taken.append(each)
    if not taken:
        raise SystemExit("nothing to compare: set PEER_SCRIPT, or KEEP to a file with rows")
    print(tables(taken))


def _progress(taken: Taken) -> str:
    figures = [each for each in FIGURES[_workload(taken.word)] if taken.has(each)]
    said = ", ".join(f"{_digits(taken.row[each.field])} {each.heading}" for each in figures)
    place = " ".join(filter(None, (taken.who, taken.word, taken.part)))
    return f"{place}: {said}; others' CPUs {taken.others_cpus:.1f}"


if __name__ == "__main__":
    main()
