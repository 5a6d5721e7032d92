"""What answers are worth: scores with intervals, areas, pairs of models, thresholds. Pure: arrays in, numbers out."""
