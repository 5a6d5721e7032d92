"""What every page of the product has in common: its head, its look, and how it is written."""
