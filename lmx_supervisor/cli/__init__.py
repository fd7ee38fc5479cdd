"""The `lmx` command line."""
