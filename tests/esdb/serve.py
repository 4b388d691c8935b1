"""The protocol double as a process of its own: `python -m tests.esdb.serve --port-file F`.

Runs until it is killed. The file gets its port when it listens. In memory, unless `--file` names
where its log is kept.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import nullcontext
from pathlib import Path

from tests.esdb.double import ProtocolDouble, Tls
from tests.esdb.files import log_in


async def serve(arguments: argparse.Namespace) -> None:
    tls = Tls(arguments.certificate, arguments.key) if arguments.certificate else None
    kept = log_in(arguments.file) if arguments.file else nullcontext(None)
    with kept as log:
        async with ProtocolDouble.running(log=log, port=arguments.port, tls=tls) as double:
            announce(double, arguments.port_file)
            await asyncio.get_running_loop().create_future()


def announce(double: ProtocolDouble, port_file: Path) -> None:
    """Say in the file, at once and whole, where the double listens."""
    unfinished = port_file.with_suffix(".unfinished")
    unfinished.write_text(str(double.node.port))
    unfinished.rename(port_file)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.esdb.serve")
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(serve(parse()))
