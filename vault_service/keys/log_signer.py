"""The log's signing key in Vault: signatures of checkpoints, and the public keys that prove them.

Texts come in, signatures go out; the private key never leaves Vault. A rotated key is used from the next
signature on, and the older versions' public keys go on proving what they signed.
"""

from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vault_service.errors import SigningError
from vault_service.keys.transit import AUDIT_KEY, Vault, VaultError


class Signed(NamedTuple):
    """An Ed25519 signature (64 bytes) and the public key that proves it (32 bytes; RFC 8032)."""

    public_key: bytes
    signature: bytes


class LogSigner:
    """Signs as the log. Every method raises SigningError while Vault gives no signature."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._known: dict[int, bytes] = {}

    def sign(self, text: bytes) -> Signed:
        """The signature of `text` under the newest version, checked before it is given."""
        try:
            version, signature = self._vault.sign(AUDIT_KEY, text)
            if version not in self._known:
                self._known = self._vault.public_keys(AUDIT_KEY)
            public_key = self._known[version]
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
        except VaultError as error:
            raise SigningError(str(error)) from None
        except (KeyError, InvalidSignature):
            raise SigningError("Vault's signature is not by the key that it names") from None
        return Signed(public_key, signature)

    def public_keys(self, *, anew: bool = False) -> list[bytes]:
        """The public keys of all versions, newest first: those known, or `anew` from Vault."""
        if anew or not self._known:
            try:
                self._known = self._vault.public_keys(AUDIT_KEY)
            except VaultError as error:
                raise SigningError(str(error)) from None
        return [key for _, key in sorted(self._known.items(), reverse=True)]


def pem_bundle(vault: Vault) -> str:
    """The public keys of all versions of the log's key as PEM, newest first: what a verifier is given."""
    found = vault.public_keys(AUDIT_KEY)
    blocks = [
        Ed25519PublicKey.from_public_bytes(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for _, key in sorted(found.items(), reverse=True)
    ]
    return b"".join(blocks).decode()
