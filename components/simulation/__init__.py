"""A world with drift, planted label errors and simulated annotators, for demonstrations and tests of the loop."""
