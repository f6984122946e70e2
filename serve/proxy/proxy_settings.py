"""All settings of the TLS proxy. ``Caddyfile`` reads the variables; this class checks them before a start."""

from enum import StrEnum

from pydantic import Field, ValidationInfo, field_validator

from serve.settings.common import TlsHostSettings


class CertificateSource(StrEnum):
    """Where the certificate is from: the proxy's own authority, one that speaks ACME, or files."""

    INTERNAL = "internal"
    ACME = "acme"
    FILES = "files"


class ProxySettings(TlsHostSettings):
    """What the service ``proxy`` is given."""

    tls: CertificateSource = Field(
        default=CertificateSource.INTERNAL,
        description="where the certificate is from: the proxy's own authority, Let's Encrypt, or BINWATCH_TLS_FILES",
    )
    tls_mail: str = Field(
        default="",
        validate_default=True,
        description="mail address for the account at Let's Encrypt",
        examples=["it@example.com"],
    )
    tls_port: int = Field(default=443, ge=1, le=65535, description="port of https")

    @field_validator("tls_mail")
    @classmethod
    def _what_acme_needs(cls, mail: str, info: ValidationInfo) -> str:
        if info.data.get("tls") != CertificateSource.ACME:
            return mail
        if info.data.get("tls_host") == "localhost":
            raise ValueError("BINWATCH_TLS is 'acme', which needs a public name; set BINWATCH_TLS_HOST")
        if "@" not in mail or len(mail.split()) != 1:
            raise ValueError("BINWATCH_TLS is 'acme', which needs an account; set BINWATCH_TLS_MAIL to a mail address")
        return mail
