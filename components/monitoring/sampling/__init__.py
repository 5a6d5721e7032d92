"""Which predictions people are asked about, and how many."""
