"""The supervisor: decides (core), acts (runtime), and talks HTTP (gateway). Never imports a model library."""
