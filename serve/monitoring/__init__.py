"""What happened to the model lately: captured answers in; a report, drift and alerts out."""
