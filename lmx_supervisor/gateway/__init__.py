"""HTTP: authentication, limits, routing, dialects. Knows the service through `port.Service` only."""
