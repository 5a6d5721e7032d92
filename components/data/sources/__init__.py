"""Where images come from: folders, archives, lists and named data sets, here or behind a URL."""
