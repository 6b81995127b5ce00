"""Sign a bundle's manifest, and check who signed it: Ed25519 (RFC 8032), optional.

The manifest holds the SHA-256 of everything else, so its signature stands for all of it. Signed are
its very bytes, so that any tool can check them. An Ed25519 signature is the same whenever the same is
signed with the same key, and so are signed bundles.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt_serve.artifact.content import canonical_json
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.manifest import MANIFEST, SIGNATURE
from softprompt_serve.release.members import join, refuse, split
from softprompt_serve.release.records import Sha256

ALGORITHM: Final = "ed25519"


class Signature(BaseModel):
    """What stands in ``signature.json``; ``key`` is the SHA-256 of the public key's 32 bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    algorithm: Literal["ed25519"] = ALGORITHM
    key: Sha256
    signature: Annotated[str, Field(max_length=88)]


def sign(data: bytes, private_pem: bytes) -> bytes:
    """The bundle with a signature of its manifest, in place of one that it may have.

    Args:
        data: a bundle's file.
        private_pem: a private key, PKCS 8 in PEM, as ``openssl genpkey -algorithm ed25519`` makes.

    Raises:
        BadRequest: ``invalid_bundle``, ``invalid_key``, or ``signing_unavailable``: the library
            is not installed.
    """
    members, manifest = _split(data)
    key = _load("load_pem_private_key", private_pem, password=None)
    signature = key.sign(manifest)
    text = base64.b64encode(signature).decode("ascii")
    said = Signature(key=_fingerprint(key.public_key()), signature=text)
    members.pop(SIGNATURE, None)
    return join(members | {SIGNATURE: canonical_json(said.model_dump())})


def verify(data: bytes, public_pem: bytes) -> str:
    """Check that the bundle's manifest was signed with this key; returns the key's fingerprint.

    Args:
        data: a bundle's file.
        public_pem: a public key in PEM, as ``openssl pkey -pubout`` makes.

    Raises:
        BadRequest: ``invalid_bundle``, ``invalid_key``, ``signing_unavailable``,
            ``bundle_not_signed``, or ``bundle_signature``: by another key, or of something else.
    """
    members, manifest = _split(data)
    key = _load("load_pem_public_key", public_pem)
    if SIGNATURE not in members:
        msg = "The bundle is not signed; expected a signature by the given key."
        raise BadRequest(msg, code="bundle_not_signed")
    said, fingerprint = _parse(members[SIGNATURE]), _fingerprint(key)
    if said.key != fingerprint:
        _wrong(f"it is signed by the key {said.key[:12]}, not {fingerprint[:12]}")
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    try:
        key.verify(base64.b64decode(said.signature, validate=True), manifest)
    except (invalid, binascii.Error) as error:
        _wrong("the signature is not of this manifest", error)
    return fingerprint


def signer(signature: bytes | None) -> str | None:
    """The fingerprint of the key that claims to have signed; None without a signature.

    Raises:
        BadRequest: ``invalid_bundle``.
    """
    return None if signature is None else _parse(signature).key


def _split(data: bytes) -> tuple[dict[str, bytes], bytes]:
    """All members, and the manifest among them."""
    members = split(data)
    if MANIFEST not in members:
        refuse(f"it has no {MANIFEST}")
    return members, members[MANIFEST]


def _parse(signature: bytes) -> Signature:
    try:
        return Signature.model_validate_json(signature)
    except ValidationError as error:
        refuse(f"{SIGNATURE} is not a signature of this format", error)


def _load(reader: str, pem: bytes, **options: Any) -> Any:
    """An Ed25519 key. The library is untyped to us, as it need not be installed."""
    try:
        serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
        kinds = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError as error:
        msg = "Signatures need the package `cryptography`; install it beside softprompt-serve."
        raise BadRequest(msg, code="signing_unavailable") from error
    try:
        key = getattr(serialization, reader)(pem, **options)
    except (ValueError, TypeError, _unsupported()) as error:
        msg = f"The key can't be read: {error}. Expected an Ed25519 key in PEM, unencrypted."
        raise BadRequest(msg, code="invalid_key") from error
    if not isinstance(key, (kinds.Ed25519PrivateKey, kinds.Ed25519PublicKey)):
        msg = f"The key is {type(key).__name__}; expected an Ed25519 key in PEM."
        raise BadRequest(msg, code="invalid_key")
    return key


def _unsupported() -> type[Exception]:
    found: type[Exception] = importlib.import_module("cryptography.exceptions").UnsupportedAlgorithm
    return found


def _fingerprint(public_key: Any) -> str:
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()


def _wrong(problem: str, cause: Exception | None = None) -> NoReturn:
    msg = f"The bundle's signature does not hold: {problem}."
    raise BadRequest(msg, code="bundle_signature") from cause
