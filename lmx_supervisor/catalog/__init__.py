"""Models on disk: what they are, whether they are whole, and which backend serves them."""
