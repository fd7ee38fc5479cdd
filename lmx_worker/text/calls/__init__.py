"""The ways in which models write calls of tools: one module for each family of formats, one parser for each."""
