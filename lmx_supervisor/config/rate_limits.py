"""Rate limits as the configuration writes them, `60/minute` or `10/second;500/hour`, read by the `limits` library."""

from functools import lru_cache

import msgspec

from lmx_protocol import limits as bounds

_EXAMPLE = "one looks like 60/minute or 10/second;500/hour"


class RateLimit(msgspec.Struct, frozen=True):
    """So many requests in so many seconds, and no more."""

    amount: int
    seconds: int


@lru_cache(maxsize=64)
def parsed_limits(text: str) -> tuple[RateLimit, ...]:
    """All the limits of a text; a request has to keep every one. Raises `ValueError` with the reason, for the operator."""
    # Here, because every `lmx` command reads the configuration, and few have to read a limit.
    from limits import parse_many

    try:
        parsed = tuple(RateLimit(item.amount, item.get_expiry()) for item in parse_many(text))
    except ValueError:
        raise ValueError(f"'{text}' is no rate limit; {_EXAMPLE}") from None
    if len(parsed) > bounds.RATE_LIMITS_MAX:
        raise ValueError(f"'{text}' has more than {bounds.RATE_LIMITS_MAX} limits")
    for limit in parsed:
        if not 1 <= limit.amount <= bounds.RATE_LIMIT_AMOUNT_MAX:
            raise ValueError(f"'{text}' must allow 1 to {bounds.RATE_LIMIT_AMOUNT_MAX} requests")
        if not 1 <= limit.seconds <= bounds.RATE_LIMIT_SECONDS_MAX:
            raise ValueError(f"'{text}' must be about a second to a day")
    return parsed
