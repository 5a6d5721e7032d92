"""When things are done: Prefect flows, their tasks and deployments, and the command line. Wiring only."""
