"""`python -m lmx_worker`: one model (or none yet) in one process, or with `--job` one piece of other work, such as a download.

Started by the supervisor, which writes its spec to stdin.

Only the crash file comes before the other imports, and nothing secret is in argv: the incarnation is a name, not a key.
"""

import argparse
import os
import sys
import traceback

from lmx_worker.crash_file import CrashFile


def main() -> None:
    """Parse argv, arm the crash file, then hand over to `bootstrap`."""
    parser = argparse.ArgumentParser(prog="python -m lmx_worker", description="One isolated LMX model worker.")
    parser.add_argument("--incarnation", required=True, help="name of this life; must match the spec on stdin")
    parser.add_argument("--job", action="store_true", help="do one piece of work instead of serving a model")
    parser.add_argument("--crash-file", required=True, help="where stacks go when this process dies badly")
    arguments = parser.parse_args()
    crash_file = CrashFile(arguments.crash_file)

    if arguments.job:
        from lmx_worker.jobs.process import run
    else:
        from lmx_worker.bootstrap import run

    try:
        status = run(arguments.incarnation, crash_file)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Native threads may be anywhere, even stuck: an orderly interpreter shutdown would wait for them or crash on them.
    os._exit(status)


if __name__ == "__main__":
    main()
