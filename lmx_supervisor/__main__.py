"""`python -m lmx_supervisor` is `lmx`."""

import sys

from lmx_supervisor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
