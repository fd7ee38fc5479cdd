"""HTTP: authentication, limits, routing, dialects. Knows the service through `core.service.Service` only."""
