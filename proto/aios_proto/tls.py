"""How a client comes onto a bus that speaks TLS: which authority it trusts and which certificate it shows.

The server asks for the certificate before anything else is said (mTLS); who one is, the nkey or the token still proves.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aios_proto.errors import InvalidRequest

CA: Final = "AIOS_TLS_CA"
CERT: Final = "AIOS_TLS_CERT"
KEY: Final = "AIOS_TLS_KEY"


def client_context(ca: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """What a client needs; the server's name is checked.

    Args:
        ca: certificates of the authority that signed the server's, PEM.
        cert: the client's own certificate, PEM; None where the server asks for none.
        key: its private key, PEM; None where it stands in `cert`.

    Raises:
        InvalidRequest: a file is missing, or is not what it should be; `field` names the variable.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"{ca} holds no certificates of an authority: {error}", field=CA) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(f"{cert} and its key cannot be used: {error}", field=CERT) from error
    return context


def context_of_environment(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """The same from `AIOS_TLS_CA`, `AIOS_TLS_CERT` and `AIOS_TLS_KEY`; None where the first is not set.

    Raises:
        InvalidRequest: see `client_context`.
    """
    ca, cert, key = (environ.get(name) for name in (CA, CERT, KEY))
    if not ca:
        return None
    return client_context(Path(ca), Path(cert) if cert else None, Path(key) if key else None)
