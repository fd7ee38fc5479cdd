"""Downloads as decisions: a state machine per download, one mutator for all of them, and the tokens that confirm them. Pure."""
