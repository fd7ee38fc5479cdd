"""Lines that a client puts into its system prompt anew with each request, and that mean nothing to a model.

Claude Code begins its system prompt with a line for its vendor's billing, which carries a hash of the request. A prompt that
differs in its first line shares no computed prefix with the one before it: each turn of a session would be computed from its
beginning. The line is left out before the prompt is made, only where it stands first, and only by its exact name: what else a
client writes reaches the model untouched.
"""

_VOLATILE = ("x-anthropic-billing-header:",)


def without_volatile_lines(text: str) -> str:
    """A system prompt, or a block of one, without the known volatile lines at its beginning."""
    while text.startswith(_VOLATILE):
        _, _, text = text.partition("\n")
    return text
