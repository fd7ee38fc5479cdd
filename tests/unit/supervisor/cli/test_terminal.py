"""Tables that fit, quantities that are short, and text that cannot drive the terminal."""

import pytest

from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.fleet import Fleet, fleet_lines, parse_fleet
from lmx_supervisor.cli.quantities import short_duration, short_size
from lmx_supervisor.cli.terminal import printable, table
from lmx_supervisor.core.views import ExitView, LoadProgressView, ReadinessView
from tests.unit.supervisor.cli.stand_in import fleet_document, worker


def test_a_table_is_aligned_and_keeps_everything_when_there_is_room() -> None:
    """Without a width nothing is shortened and no line ends in blanks."""
    assert table(("A", "LONG"), [("value", "x"), ("v", "")]) == ["A      LONG", "value  x", "v"]


def test_a_narrow_table_shortens_the_named_columns_in_their_order() -> None:
    """The first named column gives way down to its header, then the next; both ends of a name stay readable."""
    rows = [("mlx-community/some-model-4bit", "a long reason")]
    lines = table(("MODEL", "EXIT"), rows, shrink=(1, 0), columns=24)
    assert all(len(line) <= 24 for line in lines)
    assert lines[1] == "mlx-communit…-4bit  a …n"


def test_the_fleet_fits_eighty_columns() -> None:
    """With long names, long reasons and large numbers `lmx ps` stays within a standard terminal."""
    busy = worker(
        "mlx-community/Qwen2.5-Coder-32B-Instruct-8bit",
        backend="llamacpp",
        pid=4194304,
        state=WorkerState.LOADING,
        load_progress=LoadProgressView(phase="weights", done=99, total=100, unit="bytes"),
        restarts=120,
        footprint_bytes=36 * 1024**3,
        reserved_bytes=40 * 1024**3,
        requests_active=12,
        concurrent_limit=16,
        requests_waiting=1024,
        tokens_per_second=1234.5,
        last_exit=ExitView(reason="signal SIGSEGV in native code", text="", at_unix_seconds=0.0),
    )
    lines = fleet_lines(Fleet(workers=(busy, worker())), columns=80)
    assert all(len(line) <= 80 for line in lines)
    assert "loading 99%" in lines[1]
    assert lines[1].startswith("mlx")
    assert "36G/40G" in lines[1]
    assert "12/16  1024" in lines[1]


def test_a_narrow_fleet_gives_up_columns_before_names() -> None:
    """What `--json` has too is left out rather than a model's name cut in two; with room it is there."""
    calm = worker("smollm2-135m-instruct", reserved_bytes=1024**3, last_exit=None)
    wide, narrow = (fleet_lines(Fleet(workers=(calm,)), columns=columns) for columns in (120, 80))

    assert "PID" in wide[0] and "4242" in wide[1]
    assert "PID" not in narrow[0] and "4242" not in narrow[1]
    assert narrow[1].startswith("smollm2-135m-instruct  ")


def test_the_fleet_says_everything_when_there_is_room() -> None:
    """Each column shows its fact, and a slot without a process shows none of one."""
    waiting = worker(
        "down",
        pid=None,
        state=WorkerState.BACKOFF,
        restart_in_seconds=4.0,
        footprint_bytes=None,
        last_exit=None,
        readiness=ReadinessView(state=Readiness.LOADING),
    )
    serving = worker(reserved_bytes=512 * 1024**2, concurrent_limit=4, requests_waiting=3)
    lines = fleet_lines(Fleet(workers=(serving, waiting)), columns=None)
    assert lines[1].split() == [
        "tiny",
        "llamacpp",
        "4242",
        "ready",
        "2h",
        "1",
        "300M/512M",
        "0/4",
        "3",
        "81",
        "signal",
        "SIGKILL",
    ]
    assert lines[2].split() == ["down", "llamacpp", "-", "backoff", "4s", "-", "1", "-/-", "0/0", "0", "81", "-"]


def test_the_fleet_says_which_models_wait_for_room_and_which_make_it() -> None:
    """`stopped` and `busy` alone would not say why requests wait."""
    wanted = worker("wanted", pid=None, state=WorkerState.STOPPED, waits_because="'tiny' is in use")
    lines = fleet_lines(Fleet(workers=(worker(yields_to="wanted"), wanted)), columns=None)
    assert [line.split()[3:5] for line in lines[1:]] == [["yields", "2h"], ["awaits", "room"]]


def test_a_fleet_of_another_version_is_told_as_such() -> None:
    """A document without the fields that are shown is a failure of ours, not a traceback."""
    assert parse_fleet(fleet_document(worker())).worker("tiny") == worker()
    with pytest.raises(NoAnswer, match="/admin/workers answers in a form"):
        parse_fleet({"workers": [{"model_id": "tiny"}]})


def test_control_characters_of_a_model_reach_no_terminal() -> None:
    """Escape sequences and carriage returns become visible; newlines, tabs and all letters stay."""
    assert printable("a\x1b]0;title\x07b\r\x9bc\n\té漢") == "a�]0;title�b��c\n\té漢"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (2048, "2.0K"),
        (98_000_000, "93M"),
        (1.5 * 1024**3, "1.5G"),
        (20 * 1024**4, "20T"),
    ],
)
def test_sizes_are_short(size_bytes: float | None, text: str) -> None:
    """Sizes take at most five characters, with a decimal where it tells something."""
    assert short_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (-1, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86400 * 9, "9d")]
)
def test_durations_are_short_and_rounded_down(seconds: float | None, text: str) -> None:
    """Durations show their largest unit only."""
    assert short_duration(seconds) == text
