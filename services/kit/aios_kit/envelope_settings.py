"""What a service that encrypts what it stores can be told beside the settings all services share."""

from pathlib import Path

from pydantic import Field

from aios_kit.settings import ServiceSettings


class EncryptedServiceSettings(ServiceSettings):
    """Settings of the services that keep tenants' data; each adds its own in a subclass."""

    key_ring_dir: Path = Field(
        Path(".aios/key-ring"), description="folder of the tenants' keys, shared by the services that store data"
    )
