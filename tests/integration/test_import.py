"""What `import amends` brings with it: every process that starts or looks at a saga pays for it."""

from __future__ import annotations

import subprocess
import sys


def test_a_client_does_not_pay_for_what_draws_on_terminals() -> None:
    code = "import sys, amends; print(*sys.modules, sep='\\n')"
    told = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout.split()
    assert "amends.worker" in told
    assert not {"structlog", "rich", "typer", "sqlite3", "sqlalchemy"} & set(told)
