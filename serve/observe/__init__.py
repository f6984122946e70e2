"""Prometheus, Alertmanager and a dashboard for Grafana: what they ask, when they raise an alert, what they show."""
