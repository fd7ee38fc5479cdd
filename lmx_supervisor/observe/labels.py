"""Label values that clients and operators choose, bounded: every new one costs memory and a line per scrape for ever. Pure."""

OTHER = "other"
"""The label of everything that came after the bound was reached."""


class BoundedLabels:
    """The first `count_max` names keep their own label."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def learn(self, name: str) -> str:
        """The label of a name, which has one of its own from now on if there is room."""
        if name not in self._known and len(self._known) < self._count_max:
            self._known.add(name)
        return self.known(name)

    def known(self, name: str) -> str:
        """The label of a name, without making room for it."""
        return name if name in self._known else OTHER
