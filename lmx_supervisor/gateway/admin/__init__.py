"""Operator routes under /admin."""
