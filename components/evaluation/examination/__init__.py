"""What the report asks beside the metrics: worse images, attacks, strange images, where the network looked."""
