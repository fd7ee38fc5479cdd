"""Hostile bytes and hostile messages from a worker: nothing escapes but a violation, and nobody else notices."""
