"""Where things come from and what became of them: images, predictions, models, dataset versions."""
