"""Promises about chance, tried on thousands of drawn cases: false alarms, luck at the gate, drift of nothing."""
