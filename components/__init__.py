"""What is done: the product without its orchestration. Knows nothing of Prefect."""
