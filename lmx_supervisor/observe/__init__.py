"""Logs, metrics, events and journals."""
