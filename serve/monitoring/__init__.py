"""Monitoring of the served model: reads captured answers; writes a report with drift and alerts."""
