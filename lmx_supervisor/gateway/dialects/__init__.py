"""One translator per client dialect, between its JSON and the neutral request events."""
