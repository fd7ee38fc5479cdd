"""What `lmx doctor` concludes from what it measured."""

import signal

from lmx_protocol import limits
from lmx_supervisor.cli import checks
from lmx_supervisor.cli.checks import Check, Verdict


def verdicts(*found: Check | None) -> list[Verdict | None]:
    """The verdicts alone; advice must come with everything that is not well, and with nothing else."""
    for check in found:
        assert check is None or (check.advice is None) == (check.verdict is Verdict.OK)
    return [check and check.verdict for check in found]


def test_an_old_python_is_a_problem() -> None:
    """Only the version that is required counts."""
    assert verdicts(checks.check_python((3, 11, 0), (3, 11)), checks.check_python((3, 9, 18), (3, 11))) == ["ok", "problem"]


def test_only_a_low_hard_limit_on_open_files_matters() -> None:
    """The server raises the soft limit itself, so a low one is fine while the hard one allows it."""
    wanted = limits.NOFILE_WANTED
    found = checks.check_open_files(256, wanted), checks.check_open_files(256, -1), checks.check_open_files(256, wanted - 1)
    assert verdicts(*found) == ["ok", "ok", "warning"]


def test_a_socket_path_is_measured_in_bytes() -> None:
    """A path over the portable limit, or none at all, prevents serving."""
    longest = "é" * (limits.IPC_PATH_BYTES_MAX // 2)
    found = [checks.check_socket_path(path, None) for path in (longest, longest + "x")]
    assert verdicts(*found, checks.check_socket_path("", "not ours")) == ["ok", "problem", "problem"]


def test_little_memory_and_little_disk_are_warnings() -> None:
    """LMX starts with little of either; a home that cannot be written to is worse."""
    memory = checks.check_memory(8 * 1024**3, limits.CLI_MEMORY_FREE_BYTES_WANTED - 1)
    disk = checks.check_home("/home", None, limits.CLI_DISK_FREE_BYTES_WANTED - 1)
    assert verdicts(memory, disk, checks.check_home("/home", "is a file", None)) == ["warning", "warning", "problem"]


def test_a_port_that_lmx_itself_holds_is_well() -> None:
    """A taken port is a problem only when something else has it."""
    found = [checks.check_port("127.0.0.1", 1234, taken, pid) for taken, pid in ((None, None), ("in use", 7), ("in use", None))]
    assert verdicts(*found) == ["ok", "ok", "problem"]


def test_each_way_a_backend_can_be_broken_is_told() -> None:
    """A version, a Python error, a death by signal and a hang read differently, and each says how to install it."""
    found = [
        checks.check_backend("mlx", 0, "noise\n0.32\n"),
        checks.check_backend("mlx", 1, "Traceback\nNo module named 'mlx'\n"),
        checks.check_backend("mlx", -signal.SIGILL, ""),
        checks.check_backend("mlx", None, ""),
    ]
    assert verdicts(*found) == ["ok", "warning", "warning", "warning"]
    assert [check.found for check in found[:2]] == ["0.32", "No module named 'mlx'"]
    assert "SIGILL" in found[2].found
    assert found[3].found == f"did not import within {limits.CLI_BACKEND_CHECK_SECONDS:g} s"


def test_serving_needs_one_backend() -> None:
    """One that works is enough; without any, nothing can be served."""
    works, broken = checks.check_backend("mlx", 0, "1"), checks.check_backend("llamacpp", 1, "")
    assert verdicts(checks.check_backends([works, broken]), checks.check_backends([broken])) == [None, "problem"]


def test_a_missing_demo_model_and_a_broken_configuration() -> None:
    """The first only takes `--demo` away, the second keeps the server from starting."""
    found = checks.check_demo_model(None), checks.check_config(None, "port: expected an integer")
    assert verdicts(*found) == ["warning", "problem"]
