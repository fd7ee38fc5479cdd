"""Whole days of one supervisor: the real core, a virtual clock, and simulated workers, clients and operators, all by one seed."""
