"""The stage for tests of the core."""

import pytest

from tests.support.stage import Stage


@pytest.fixture
def stage() -> Stage:
    """An empty fleet without spares."""
    return Stage()
