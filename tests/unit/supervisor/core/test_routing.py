"""What a name means: ids, then `auto`, then aliases; what answers now before what is coming, what can do it before the rest."""

import msgspec
import pytest

from lmx_protocol.states import ModelTask, WorkerState
from lmx_supervisor.core.routing import Route, Served, merged, route, served_models
from lmx_supervisor.core.views import FleetView, WorkerView
from tests.gateway.service import worker_view

GENERATES = (ModelTask.GENERATE,)
ALIASES = {
    "code": ("gone", "b", "a"),
    "both": ("a", "b"),
    "none": (),
    "vectors": ("a", "v"),
    "a": ("b",),
    "lost": ("gone", "gone"),
}


def served(model_id: str, *, now: bool = True, tasks: tuple[ModelTask, ...] | None = GENERATES) -> Served:
    """A model that requests may be sent to."""
    return Served(model_id, now, tasks)


TWO = (served("b"), served("a"))


@pytest.mark.parametrize(
    ("name", "models", "default", "goes_to"),
    [
        ("a", TWO, None, "a"),
        ("code", TWO, None, "b"),
        ("both", TWO, None, "a"),
        ("auto", TWO, "b", "b"),
        ("auto", TWO, "gone", "a"),
        ("auto", TWO, None, "a"),
        # An id is an id, whatever else is called so: also `auto`.
        ("auto", (*TWO, served("auto")), "b", "auto"),
        ("both", (served("a", now=False), served("b")), None, "b"),
        ("both", (served("a", now=False), served("b", now=False)), None, "a"),
        ("auto", (served("a"), served("b", now=False)), "b", "a"),
        ("auto", (served("b", now=False),), None, "b"),
        ("a", (served("a", now=False), served("b")), None, "a"),
        ("unheard-of", TWO, None, "unheard-of"),
    ],
)
def test_where_a_name_leads(name: str, models: tuple[Served, ...], default: str | None, goes_to: str) -> None:
    """The first that is served, in the order of the list; what answers now goes before what is coming."""
    assert Route(goes_to) == route(name, ALIASES, default, models)


@pytest.mark.parametrize(
    ("task", "name", "goes_to"),
    [
        (ModelTask.EMBED, "auto", "v"),
        (ModelTask.EMBED, "vectors", "v"),
        (ModelTask.GENERATE, "auto", "a"),
        (ModelTask.GENERATE, "vectors", "a"),
        # None of them can: the first, whose own refusal then says what it can do.
        (ModelTask.RANK, "vectors", "a"),
    ],
)
def test_a_model_that_cannot_do_it_is_passed_over(task: ModelTask, name: str, goes_to: str) -> None:
    """A chat that leaves the model open does not land on one that only embeds."""
    models = (served("a"), served("v", tasks=(ModelTask.EMBED,)))

    assert goes_to == route(name, ALIASES, None, models, task).model_id


def test_a_model_whose_abilities_are_not_known_yet_counts_as_able() -> None:
    """While it loads nobody knows; waiting for it is better than a model that certainly cannot."""
    models = (served("a", tasks=(ModelTask.EMBED,)), served("b", now=False, tasks=None))

    assert "b" == route("both", ALIASES, None, models).model_id


@pytest.mark.parametrize(
    ("name", "default", "unserved"),
    [
        ("lost", None, ("gone",)),
        ("none", None, ()),
        ("auto", None, ()),
        ("auto", "gone", ("gone",)),
        ("code", "a", ("gone", "b", "a")),
    ],
)
def test_nothing_served(name: str, default: str | None, unserved: tuple[str, ...]) -> None:
    """The name stays as it is, with what it would take to serve it."""
    assert Route(name, unserved) == route(name, ALIASES, default, ())


@pytest.mark.parametrize(
    ("name", "default", "usable", "goes_to"),
    [
        ("auto", "b", "a", Route("a")),
        ("both", None, "b", Route("b")),
        ("code", None, "a", Route("a")),
        ("code", None, "gone", Route("code", ("gone",))),
        ("auto", "b", "gone", Route("auto", ())),
        ("auto", "gone", "gone", Route("auto", ("gone",))),
        ("both", None, "c", Route("both", (), forbidden=True)),
        ("none", None, "c", Route("none", ())),
        # What was asked for by its id means that id.
        ("b", None, "a", Route("b")),
        ("unheard-of", None, "a", Route("unheard-of")),
    ],
)
def test_a_name_stands_for_what_the_caller_may_use(name: str, default: str | None, usable: str, goes_to: Route) -> None:
    """Models that are for others are passed over and not named; an alias of nothing else is forbidden."""
    assert goes_to == route(name, ALIASES, default, TWO, may_use=lambda model_id: model_id == usable)


@pytest.mark.parametrize(
    ("state", "restart_in", "keeps_its_line", "is_served", "answers_now"),
    [
        (WorkerState.READY, None, False, True, True),
        (WorkerState.BUSY, None, False, True, True),
        (WorkerState.LOADING, None, False, True, False),
        (WorkerState.BACKOFF, 10.0, False, True, False),
        (WorkerState.BACKOFF, 10.1, False, False, False),
        (WorkerState.DRAINING, None, True, True, False),
        (WorkerState.DRAINING, None, False, False, False),
        (WorkerState.QUARANTINED, None, False, False, False),
        (WorkerState.FAILED, None, False, False, False),
    ],
)  # fmt: skip
def test_what_counts_as_served(
    state: WorkerState, restart_in: float | None, keeps_its_line: bool, is_served: bool, answers_now: bool
) -> None:
    """Everything a request may wait for within ten seconds."""
    found = served_models(fleet(_in(state, restart_in, keeps_its_line)), wait_seconds=10.0)

    assert ((Served("m", answers_now, GENERATES),) if is_served else ()) == found


def _in(state: WorkerState, restart_in: float | None, keeps_its_line: bool) -> WorkerView:
    view = worker_view("m", state)
    return msgspec.structs.replace(view, restart_in_seconds=restart_in, keeps_its_line=keeps_its_line)


def fleet(*workers: WorkerView) -> FleetView:
    """A fleet of these."""
    return FleetView(workers=workers, spares=(), requests_in_flight=0, requests_waiting=0, draining=False)


def test_further_models_go_to_the_end_of_their_alias() -> None:
    """New aliases are made, and nothing stands twice."""
    found = merged({"code": ("a", "b"), "chat": ()}, [("code", "c"), ("code", "a"), ("new", "n")])

    assert {"code": ("a", "b", "c"), "chat": (), "new": ("n",)} == found
