"""The ground of the fault suite: the marker that names a case, and the world it happens in."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.plugins.leaks import nothing_leaks  # noqa: F401 - an autouse fixture
from tests.support.world import Measurement, World


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "fault(id, promise, not_run=None): a case of FAULTS.md; `not_run` says what this machine lacks for it"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be run here, and hand case and promise to the report. Times are measured in all of them."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.alone)
        for marker in item.iter_markers("fault"):
            case_id, promise = marker.args
            not_run = marker.kwargs.get("not_run")
            item.user_properties.append(("fault", {"id": case_id, "promise": promise, "not_run": not_run}))
            if not_run:
                item.add_marker(pytest.mark.skip(reason=not_run))


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Servers, measurements and a bystander; the universal rules are checked afterwards."""

    def record(measurement: Measurement) -> None:
        request.node.user_properties.append(("measurement", asdict(measurement)))

    world = World(tmp_path, record)
    yield world
    world.close()
