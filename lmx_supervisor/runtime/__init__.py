"""The only code that touches processes, ZeroMQ, clocks and disks on behalf of the core."""
