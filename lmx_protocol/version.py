"""The protocol version and the rule for mixing versions."""

PROTOCOL_VERSION = 3


def is_compatible(theirs: int) -> bool:
    """Whether a peer that speaks version `theirs` may be talked to.

    Only an equal version may: messages are positional arrays, and supervisor and worker ship from one tree, so any difference
    means that two installations were mixed up. Every change to `messages` raises `PROTOCOL_VERSION`.
    """
    return theirs == PROTOCOL_VERSION
