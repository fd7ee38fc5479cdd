"""Lists of models as operators write them: ids, in which `*` stands for anything."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


def is_one_of(patterns: Iterable[str], model_id: str) -> bool:
    """Whether a list has this model."""
    return any(fnmatchcase(model_id, pattern) for pattern in patterns)
