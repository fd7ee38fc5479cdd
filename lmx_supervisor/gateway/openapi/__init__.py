"""GET /openapi.json: the interface as OpenAPI 3.1, generated from the structs that decode requests and describe answers."""
