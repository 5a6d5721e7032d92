"""How good production is, from few labels: estimates with intervals that keep their promise."""
