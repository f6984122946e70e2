"""What can be set of Alertmanager: ``start_alertmanager.py`` reads the variable, this class checks it before."""

from pydantic import Field

from serve.settings import Settings, WebAddress


class AlertmanagerSettings(Settings):
    """Who is notified by Alertmanager."""

    alertmanager_webhook: WebAddress | None = Field(
        default=None,
        description="address that Alertmanager posts alerts to, in its own format",
        examples=["https://hooks.example.com/alertmanager"],
    )
