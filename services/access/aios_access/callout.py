"""Whether a client may connect to the bus, and with which permissions: the answer to NATS' auth callout."""

from dataclasses import dataclass, field

from aios_access.directory import Directory
from aios_access.nats_jwt import Issuer, NotAJwt, Xkey, callout_answer, read_claims, user_claims
from aios_proto.errors import Unauthenticated
from aios_proto.permissions import agent_permissions
from aios_proto.tokens import AgentToken

ACCOUNT = "AIOS"
"""The account that all agents and services share; subjects, not accounts, separate tenants."""

SERVER_XKEY_HEADER = "Nats-Server-Xkey"


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """What the server asks: may this connection come in?

    Attributes:
        user_nkey: names the connection.
        server_id: who asks.
        server_xkey: for whom the answer is sealed; None where nothing is sealed.
        credential: what the client sent, not checked yet.
    """

    user_nkey: str
    server_id: str
    server_xkey: str | None
    credential: str = field(repr=False)


class AuthCallout:
    """Answers one request of the server after another.

    Args:
        directory: who exists.
        issuer: signs the answers.
        xkey: opens requests and seals answers; None on a bus that does not seal.
    """

    def __init__(self, directory: Directory, issuer: Issuer, xkey: Xkey | None) -> None:
        self._directory = directory
        self._issuer = issuer
        self._xkey = xkey

    def read(self, request: bytes, server_xkey: str | None) -> AuthRequest:
        """Opens one request.

        Args:
            request: body of the message on `$SYS.REQ.USER.AUTH`.
            server_xkey: the `Nats-Server-Xkey` header.

        Raises:
            NotAJwt: the request is not one; it cannot be answered.
        """
        if self._xkey is not None:
            if server_xkey is None:
                raise NotAJwt("the request is not sealed")
            request = self._xkey.open(request, server_xkey)
        try:
            claims = read_claims(request.decode())
            body = claims["nats"]
            options = body["connect_opts"]
            return AuthRequest(
                user_nkey=str(body["user_nkey"]),
                server_id=str(body["server_id"]["id"]),
                server_xkey=server_xkey if self._xkey is not None else None,
                credential=str(options.get("auth_token") or options.get("pass") or ""),
            )
        except UnicodeDecodeError as error:
            raise NotAJwt("not a JWT") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, NotAJwt):
                raise
            raise NotAJwt(f"the request lacks {error}") from error

    def unknown_agent(self, request: AuthRequest) -> str | None:
        """The directory's key of the agent a well-formed credential names, where it does not prove it to be that one.

        Then the directory may be behind, and the store should be asked before the answer.
        """
        try:
            token = AgentToken.parse(request.credential)
        except Unauthenticated:
            return None
        return None if self._directory.authenticate(token) is not None else f"{token.tenant}.{token.agent}"

    def answer(self, request: AuthRequest) -> tuple[bytes, str | None]:
        """The bytes to send back, and why the client was refused, if it was (never holds the secret)."""
        refusal: str | None = None
        jwt = ""
        try:
            token = AgentToken.parse(request.credential)
            identity = self._directory.authenticate(token)
            if identity is None:
                refusal = f"no agent {token.tenant}.{token.agent} with this secret"
            else:
                permissions = agent_permissions(identity.tenant, identity.agent)
                jwt = self._issuer.sign(user_claims(request.user_nkey, identity.key, ACCOUNT, permissions))
        except Unauthenticated as error:
            refusal = error.message
        claims = callout_answer(request.user_nkey, request.server_id, jwt=jwt, error=refusal or "")
        answer = self._issuer.sign(claims).encode()
        if self._xkey is not None and request.server_xkey is not None:
            answer = self._xkey.seal(answer, request.server_xkey)
        return answer, refusal
