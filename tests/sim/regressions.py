"""Seeds that once broke a promise; each is lived through in every test run."""

SEEDS: dict[int, str] = {}
"""Seed, and what it found. A change to the simulation re-deals every seed: then look for new ones under the same bugs."""
