"""The judge of a simulated day: every promise of the core, checked after every event, from outside."""
