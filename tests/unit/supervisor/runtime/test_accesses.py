"""What the predictor has learned, in the home: what is written is read, and what cannot be read costs nothing."""

from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.core.events import AccessesKnown
from lmx_supervisor.runtime.accesses import FILE_NAME, SavedAccesses, accesses_known, read_accesses
from lmx_supervisor.runtime.atomic_file import write_document


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Privately, and no more of it than is remembered."""
    many = tuple(str(number) for number in range(2 * limits.PREDICTOR_HISTORY_MAX))
    write_document(tmp_path / FILE_NAME, SavedAccesses(total_accesses=500, history=many))
    found = read_accesses(tmp_path)

    assert 0o600 == (tmp_path / FILE_NAME).stat().st_mode & 0o777
    assert AccessesKnown(many[limits.PREDICTOR_HISTORY_MAX :], 500) == accesses_known(found.document)


def test_a_broken_file_is_set_aside(tmp_path: Path) -> None:
    """It is kept for whoever wants to look, and nothing is known of earlier runs."""
    (tmp_path / FILE_NAME).write_text('{"history": [')
    found = read_accesses(tmp_path)

    assert found.set_aside is not None and found.set_aside.exists()
    assert AccessesKnown((), 0) == accesses_known(found.document)
