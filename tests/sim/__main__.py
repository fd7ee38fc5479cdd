"""`python -m tests.sim --seed N [--steps M] [--verbose]` replays one day; `--seeds A:B` hunts through many."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim.day import DayFailedError, Diary, run_day

_CHUNK = 50


def main() -> int:
    """Run the days asked for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int)
    which.add_argument("--seeds", type=_range, metavar="A:B")
    parser.add_argument("--steps", type=int, help="stop after this many events")
    parser.add_argument("--anonymous", action="store_true", help="nobody says who it is")
    parser.add_argument("--verbose", action="store_true", help="print every event and action")
    parser.add_argument("--jobs", type=int, default=1, help="processes to hunt with")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, options.steps, anonymous=options.anonymous, verbose=options.verbose)
    return _hunt(options.seeds, options.jobs, anonymous=options.anonymous)


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def _replay(seed: int, steps: int | None, *, anonymous: bool, verbose: bool) -> int:
    try:
        _say(str(run_day(seed, anonymous=anonymous, steps_max=steps, trace=_say if verbose else None)))
    except DayFailedError as failure:
        _say(str(failure))
        return 1
    return 0


def _hunt(seeds: range, jobs: int, *, anonymous: bool) -> int:
    began_at = time.monotonic()
    failures: list[str] = []
    totals: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(partial(_try, anonymous=anonymous), seeds, chunksize=_CHUNK):
            if isinstance(outcome, str):
                failures.append(outcome)
                _say(outcome)
            else:
                totals.update(
                    events=outcome.events, workers=outcome.workers, requests=outcome.requests, quarantines=outcome.quarantines
                )
                totals.update(dict(outcome.ended))
    _say(f"{len(seeds)} days, {len(failures)} failed, {time.monotonic() - began_at:.1f} s: {dict(totals)}")
    return 1 if failures else 0


def _try(seed: int, *, anonymous: bool) -> Diary | str:
    try:
        return run_day(seed, anonymous=anonymous)
    except DayFailedError as failure:
        return str(failure)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
