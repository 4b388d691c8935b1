"""Failed assertions of the contract suites explain themselves, as those of any test do."""

import pytest

pytest.register_assert_rewrite("amends.testing.contracts")
