"""How many connections may be open so that descriptors are left for workers, files and logs. Pure."""

import msgspec

from lmx_protocol import limits


class ConnectionBudget(msgspec.Struct, frozen=True):
    """How many connections are served at one time, and how many more are told that there is no room."""

    connections_max: int
    refusals_max: int


def connection_budget(wanted: int, open_files_max: int) -> ConnectionBudget:
    """The budget for `wanted` connections in a process that may open `open_files_max` files.

    `NOFILE_RESERVE` descriptors are never HTTP's; where there are fewer than twice as many, it is half of them. Of the rest, at
    most a quarter is for refusals: a connection that is served does more good than one that is told why it is not.
    """
    for_http = open_files_max - min(limits.NOFILE_RESERVE, open_files_max // 2)
    refusals_max = max(1, min(limits.REFUSALS_MAX, for_http // 4))
    return ConnectionBudget(connections_max=max(1, min(wanted, for_http - refusals_max)), refusals_max=refusals_max)
