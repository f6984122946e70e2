"""TLS in front of the gateway and MLflow: Caddy with the settings of ``Caddyfile``, in an image of its own."""
