"""Whole days of one supervisor by a seed: the real core, a virtual clock, and simulated workers, clients and operators."""
