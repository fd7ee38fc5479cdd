"""The configuration: schema, sources and errors."""
