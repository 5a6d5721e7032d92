"""What production looks like: sampling for annotators, accuracy from few labels, the trigger, drift and its page."""
