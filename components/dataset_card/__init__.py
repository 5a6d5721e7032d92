"""What a dataset version holds, for people: how much of what, from where, in what state, and what it lacks."""
