"""Everything in PostgreSQL: predictions, labels, estimates, requests, the champion and the ledger."""
