"""Takes in the readings of the host's memory, and says when the host is so full that requests are shed."""

from lmx_supervisor.core import events as e
from lmx_supervisor.core.state import FleetState


class HostWatch:
    """Keeps the last reading in the state."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def read(self, event: e.HostMemoryRead) -> None:
        """The host's memory at this moment."""
        state = self._state
        state.host = event
        shedding = event.used_percent > state.policy.load_shedding_percent
        if shedding is not state.shedding:
            state.shedding = shedding
            state.tell(
                "load_shedding",
                active=shedding,
                used_percent=round(event.used_percent, 1),
                threshold_percent=state.policy.load_shedding_percent,
                alarming=shedding,
            )
