"""Forged JWTs: signed with the right key or another one, whatever they say."""

import base64
import hmac
import json


def b64url(raw: bytes) -> str:
    """Return base64url without padding, as a JWT has it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: bytes, payload: bytes, *, key: str) -> str:
    """Sign any header and payload with HMAC-SHA256, whatever the header says."""
    signed = f"{b64url(header)}.{b64url(payload)}"
    return f"{signed}.{b64url(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"


def signed_as(payload: object, *, key: str) -> str:
    """Sign a payload as HS256."""
    return forge(b'{"alg":"HS256","typ":"JWT"}', json.dumps(payload).encode(), key=key)
