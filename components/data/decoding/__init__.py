"""Images from outside: opened apart from everything else, and decoded by one rule."""
