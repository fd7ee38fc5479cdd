"""Backends behind one small interface (`base.Backend`), found by name through `registry`."""
