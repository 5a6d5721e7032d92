"""What a training run tells of itself: its curves, and what is wrong with them."""
