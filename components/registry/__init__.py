"""The model registry: runs, versions, aliases and files of models in MLflow, the one place that imports it."""
