"""Record the journals of new stories: `python -m tests.replay.record [story …]`.

Without names it records every story that has no file yet. It refuses to record one that has:
a journal that a released version wrote is never edited.
"""

from __future__ import annotations

import sys

import structlog

from amends.testing.harness import Harness, run_app
from tests.replay.golden import Golden, path_of, write
from tests.replay.sagas_v1 import APP
from tests.replay.stories import STORIES


def record(name: str) -> None:
    """Tell a story and keep its journal. Raises FileExistsError if there is one."""
    if path_of(name).exists():
        raise FileExistsError(f"{path_of(name)} is kept as it is; tell a new story instead")

    async def tell(harness: Harness) -> None:
        handle = await STORIES[name](harness)
        await harness.settle()
        state = await handle.state()
        records = await handle.journal()
        write(name, Golden(handle.instance, str(state.status), state.result, records))

    run_app(APP, tell)


def main(names: list[str]) -> int:
    """Record what is asked for."""
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    unknown = [name for name in names if name not in STORIES]
    if unknown:
        sys.stderr.write(f"no such story: {', '.join(unknown)}\n")
        return 2
    for name in names or [name for name in STORIES if not path_of(name).exists()]:
        try:
            record(name)
        except FileExistsError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
