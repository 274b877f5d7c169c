"""Which certificates a client shows, and how a wrong one is named."""

from pathlib import Path

import pytest

from aios_proto import tls
from aios_proto.errors import InvalidRequest
from aios_proto.tls import client_context, context_of_environment
from aios_stack.certificates import provision_certificates
from aios_stack.secret_files import SecretFiles


def test_without_an_authority_there_is_no_tls() -> None:
    assert context_of_environment({}) is None
    assert context_of_environment({tls.CA: "", tls.CERT: "x.pem"}) is None


def test_the_environment_names_the_files(tmp_path: Path) -> None:
    files = provision_certificates(SecretFiles(tmp_path)).agent
    context = context_of_environment({tls.CA: str(files.ca), tls.CERT: str(files.cert), tls.KEY: str(files.key)})
    assert context is not None
    assert context.check_hostname
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", "AIOS authority"),),)]


def test_a_file_that_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    certificates = provision_certificates(SecretFiles(tmp_path))
    files = certificates.agent
    for ca, cert, key, field in (
        (tmp_path / "none.pem", files.cert, files.key, tls.CA),
        (files.key, files.cert, files.key, tls.CA),
        (files.ca, tmp_path / "none.pem", files.key, tls.CERT),
        (files.ca, files.cert, certificates.service.key, tls.CERT),
        (files.ca, files.cert, None, tls.CERT),
    ):
        with pytest.raises(InvalidRequest) as caught:
            client_context(ca, cert, key)
        assert caught.value.field == field
