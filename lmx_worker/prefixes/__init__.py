"""Computed prefixes that outlive their worker: what is kept, how it lies on the disk, and how it comes back."""
