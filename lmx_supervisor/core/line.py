"""Those who wait for one model: in the order in which they came, and by who they are, so that finding the next is cheap."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.ledger import Entry


class Group(NamedTuple):
    """Requests that only their order tells apart: what holds for the first one, limits and lane, holds for all."""

    share: str
    client: str
    key: str | None
    lane: Lane
    takes_a_place: bool


class Line:
    """Iterating gives the request ids, the oldest first."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._groups: dict[Group, dict[str, Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    @property
    def entries(self) -> Iterable[Entry]:
        """Everybody, the oldest first."""
        return self._entries.values()

    @property
    def groups(self) -> Iterable[tuple[Group, Iterable[Entry]]]:
        """Everybody by group; in each the oldest first."""
        return ((group, members.values()) for group, members in self._groups.items())

    def by_lane(self) -> dict[Lane, int]:
        """How many wait in each lane. Asked with every request: it costs as much as there are groups, however many wait."""
        counted = dict.fromkeys(Lane, 0)
        for group, members in self._groups.items():
            counted[group.lane] += len(members)
        return counted

    def add(self, entry: Entry) -> None:
        """Somebody comes last."""
        self._entries[entry.request_id] = entry
        self._groups.setdefault(_group_of(entry), {})[entry.request_id] = entry

    def add_first(self, entries: Iterable[Entry]) -> None:
        """These go before everybody, in this order."""
        others = list(self._entries.values())
        self.clear()
        for entry in (*entries, *others):
            self.add(entry)

    def remove(self, request_id: str) -> None:
        """Somebody leaves. Raises `KeyError` when that one does not wait here."""
        group = _group_of(self._entries.pop(request_id))
        members = self._groups[group]
        del members[request_id]
        if not members:
            del self._groups[group]

    def clear(self) -> None:
        """Everybody leaves."""
        self._entries.clear()
        self._groups.clear()


def _group_of(entry: Entry) -> Group:
    claim = entry.claim
    return Group(claim.share, claim.client, claim.key, claim.lane, entry.takes_a_place)
