"""How good a model is: metrics, their report, and the gate between a candidate and the champion."""
