"""The processor's name."""

from lmx_supervisor.observe.hardware import chip_in


def test_the_kernels_list_names_the_processor() -> None:
    """Under whichever name the architecture has for it, and None where it has none."""
    assert "Fast CPU @ 3 GHz" == chip_in("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nflags\t: a b\n")
    assert "Board 5" == chip_in("processor : 0\nModel : Board 5\n")
    assert None is chip_in("processor : 0\n")
