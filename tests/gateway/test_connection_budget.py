"""Connections under the limit of open files."""

import pytest

from lmx_protocol import limits
from lmx_supervisor.gateway.connection_budget import connection_budget


def test_a_usual_limit_changes_nothing() -> None:
    """With thousands of descriptors everything that was asked for is granted."""
    budget = connection_budget(limits.HTTP_CONNECTIONS_MAX, limits.NOFILE_WANTED)

    assert (budget.connections_max, budget.refusals_max) == (limits.HTTP_CONNECTIONS_MAX, limits.REFUSALS_MAX)


@pytest.mark.parametrize("open_files_max", [1, 8, 64, 256, 1024, 4096])
def test_descriptors_are_left_for_workers(open_files_max: int) -> None:
    """Whatever the limit, half of it or the reserve stays free, and somebody is served and somebody told."""
    budget = connection_budget(100_000, open_files_max)

    taken = budget.connections_max + budget.refusals_max
    assert taken <= max(2, open_files_max - min(limits.NOFILE_RESERVE, open_files_max // 2))
    assert budget.connections_max >= budget.refusals_max >= 1
