"""The certificates of a bus that speaks TLS: an authority of the installation's own, and those that it signs.

| file in `secrets/` | who reads it |
|---|---|
| `tls-ca.pem` | everyone: whom to trust |
| `tls-ca.key` | only this module, to sign another certificate |
| `tls-server.pem`, `.key` | the bus; `tls-<node>.pem`, `.key` where it has several nodes |
| `tls-service.pem`, `.key` | the kernel services and the operator's commands |
| `tls-agent.pem`, `.key` | agents; without it nobody gets as far as showing a token |

What is there and lasts is kept. A certificate that ends within a month, or names other hosts, is made anew at the next
start; the authority lasts ten years.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aios_stack.secret_files import SecretFiles

_CA_AGE = datetime.timedelta(days=3650)
_AGE = datetime.timedelta(days=397)
_RENEW_BEFORE = datetime.timedelta(days=30)
_CLOCKS_DIFFER = datetime.timedelta(minutes=5)
_HERE = ("127.0.0.1", "localhost")
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate, its key and its authority's certificate lie."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def of(cls, name: str, folder: Path) -> "CertificateFiles":
        """Those of that name in a folder."""
        return cls(folder / "tls-ca.pem", folder / f"tls-{name}.pem", folder / f"tls-{name}.key")


@dataclass(frozen=True, slots=True)
class BusCertificates:
    """All of an installation."""

    server: CertificateFiles
    service: CertificateFiles
    agent: CertificateFiles


def provision_certificates(folder: SecretFiles, hosts: Sequence[str] = _HERE) -> BusCertificates:
    """Makes what is missing or about to end for a bus of one server, and returns where all of it lies.

    Args:
        folder: of the secrets.
        hosts: names and addresses under which the bus is reached.
    """
    authority = _Authority(folder)
    server = authority.sign("server", hosts, (_SERVER,))
    return BusCertificates(server, authority.sign("service"), authority.sign("agent"))


def provision_node_certificates(folder: SecretFiles, nodes: Sequence[str]) -> None:
    """The same for a bus of several nodes. A node's certificate serves for routes too, where it is also the client.

    Args:
        folder: of the secrets.
        nodes: the hosts at which they are reached.
    """
    authority = _Authority(folder)
    for node in nodes:
        authority.sign(node, tuple(dict.fromkeys((node, *_HERE))), (_SERVER, _CLIENT))
    for name in ("service", "agent"):
        authority.sign(name)


class _Authority:
    """Signs certificates of one installation."""

    def __init__(self, folder: SecretFiles) -> None:
        self._folder = folder
        self._key = _key(folder.keep("tls-ca.key", _new_key))
        text = folder.keep("tls-ca.pem", lambda: _authority(self._key))
        self._certificate = x509.load_pem_x509_certificate(text.encode())

    def sign(
        self, name: str, hosts: Sequence[str] = (), purposes: Sequence[x509.ObjectIdentifier] = (_CLIENT,)
    ) -> CertificateFiles:
        """A certificate of that name, kept while it can be used."""
        files = CertificateFiles.of(name, self._folder.folder)
        key = _key(self._folder.keep(files.key.name, _new_key))
        if not _lasts(files.cert, self._certificate, key, hosts):
            self._folder.replace(files.cert.name, _signed(self._certificate, self._key, key, name, hosts, purposes))
        return files


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode().strip()


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _authority(key: ec.EllipticCurvePrivateKey) -> str:
    name = _name("AIOS authority")
    usage = _usage(signs_certificates=True)
    made = (
        _builder(name, name, key, _CA_AGE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(made)


def _signed(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    hosts: Sequence[str],
    purposes: Sequence[x509.ObjectIdentifier],
) -> str:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = (
        _builder(_name(f"AIOS {name}"), ca.subject, key, _AGE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(authority, critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, age: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + age)
        .add_extension(identifier, critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _lasts(path: Path, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> bool:
    """Whether the stored certificate can be used for a month to come, for these hosts, with this key."""
    try:
        stored = x509.load_pem_x509_certificate(path.read_bytes())
        stored.verify_directly_issued_by(ca)
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return False
    names: Sequence[x509.GeneralName] = ()
    if hosts:
        names = list(stored.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    now = datetime.datetime.now(datetime.UTC)
    ours = stored.public_key() == key.public_key()
    return ours and stored.not_valid_after_utc - now > _RENEW_BEFORE and list(names) == [_host(host) for host in hosts]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode().strip()
