"""From estimates and a reference to a decision."""
