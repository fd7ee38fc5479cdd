"""One process per loaded model: loads it, batches its requests, and dies alone."""
