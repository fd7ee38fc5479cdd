"""Promises to operators: every order is answered exactly once, in kind, and an unload leaves no older load behind."""

from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from tests.sim.judging.promise import promise

_ANSWERS = {
    e.LoadWanted: a.LoadSettled,
    e.RestartWanted: a.LoadSettled,
    e.UnloadWanted: a.UnloadSettled,
    e.QuarantineClearWanted: a.QuarantineSettled,
}
_SETTLINGS = (a.LoadSettled, a.UnloadSettled, a.QuarantineSettled, a.OrderRefused)
Order = e.LoadWanted | e.RestartWanted | e.UnloadWanted | e.QuarantineClearWanted


class OrdersJudge:
    """Watches every order until it is settled."""

    def __init__(self) -> None:
        self.open: dict[str, Order] = {}
        """In the order in which they came."""

    def before(self, event: e.Event) -> None:
        """Note an order."""
        if isinstance(event, Order):
            self.open[event.order_id] = event

    def after(self, actions: list[a.Action]) -> None:
        """Judge the answers."""
        older_of: dict[str, list[str]] = {}
        for action in actions:
            if not isinstance(action, _SETTLINGS):
                continue
            order = self.open.get(action.order_id)
            promise(order is not None, f"order {action.order_id} was answered twice: {action}")
            in_kind = isinstance(action, (_ANSWERS[type(order)], a.OrderRefused))
            promise(in_kind, f"{order} was answered with {action}")
            if isinstance(action, a.UnloadSettled):
                older = self._before(action.order_id)
                older_of[action.order_id] = [one.order_id for one in older if _model_of(one) == action.model_id]
            del self.open[action.order_id]
        for order_id, older_ids in older_of.items():
            still = [older_id for older_id in older_ids if older_id in self.open]
            promise(not still, f"{order_id} unloaded its model, but older orders for it go on: {still}")

    def judge_end_of_day(self) -> None:
        """Nobody is left without an answer."""
        promise(not self.open, f"orders without an answer: {sorted(self.open)}")

    def _before(self, order_id: str) -> list[Order]:
        older: list[Order] = []
        for known_id, order in self.open.items():
            if known_id == order_id:
                break
            older.append(order)
        return older


def _model_of(order: Order) -> str | None:
    return order.spec.model_id if isinstance(order, e.LoadWanted) else order.model_id
