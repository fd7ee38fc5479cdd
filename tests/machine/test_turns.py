"""Turns among clients, in random histories: whoever waits has the next turn but a few, whatever the others send."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_protocol.messages import Begin
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

CLIENTS = "abcd"
happenings = st.lists(st.sampled_from([*CLIENTS, "ends", "ends"]), max_size=120)


@given(slots=st.integers(1, 3), history=happenings)
@settings(max_examples=200, deadline=None)
def test_between_two_turns_of_one_who_waits_everybody_has_few(slots: int, history: list[str]) -> None:
    """While a client waits, each other one gets at most a turn more than the model has places before it has its own."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=1000, queue_total=1000, max_concurrent_requests=64))
    stage.ready(slots=slots)
    client_of: dict[str, str] = {}
    turns_since = {client: Counter[str]() for client in CLIENTS}
    running: list[str] = []
    for number, happening in enumerate(history):
        heard = len(stage.actions)
        if happening != "ends":
            client_of[f"r{number}"] = happening
            stage.ask(f"r{number}", client=happening)
        elif running:
            stage.finish(running.pop(0), seq=0)
        new, stage.actions[heard:] = stage.actions[heard:], []
        begun = [
            each.message.request.request_id for each in new if hasattr(each, "message") and isinstance(each.message, Begin)
        ]
        running += begun
        waiting = {client_of[request_id] for request_id in stage.slot().waiting}
        for client in CLIENTS:
            if client not in waiting:
                turns_since[client].clear()
        for turn in begun:
            for client in waiting:
                turns_since[client][client_of[turn]] += 1
            turns_since[client_of[turn]].clear()
        for client, turns in turns_since.items():
            assert max(turns.values(), default=0) <= slots + 1, (client, turns)
