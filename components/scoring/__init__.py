"""From a batch of image files to columns of predictions; nothing here knows where the rows go."""
