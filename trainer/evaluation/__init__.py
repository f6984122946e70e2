"""How good a model is, and whether another one is better: metrics, intervals, alarms, the gate."""
