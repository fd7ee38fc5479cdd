"""Quantized copies of models as decisions: one job at a time, first come, first served. Pure."""
