"""What admins do with wrapping keys once they are made: rotate, wrap anew, and destroy in two halves.

A login at Vault and a key version's name come in. No key is ever seen in the clear here.
"""

import base64

from vault_service.keys.names import KeyName
from vault_service.keys.transit import Vault, VaultBadAnswer, VaultDenied, VaultNotFound, VaultRefused


def rotate_wrapping_key(vault: Vault, name: KeyName, wrapped: str) -> str:
    """Give the transit key of `name` a new version, and `wrapped` under that version. The old wrap still opens."""
    vault.write(f"transit/keys/{name.transit}/rotate")
    context = base64.b64encode(name.transit.encode()).decode()
    path = f"transit/rewrap/{name.transit}"
    newer = vault.write(path, ciphertext=wrapped, context=context).get("ciphertext")
    if not isinstance(newer, str) or newer == wrapped:
        raise VaultBadAnswer(f"{path} gave no newer wrap")
    return newer


def wrapping_key_exists(vault: Vault, name: KeyName) -> bool:
    """Whether what `name` wraps could still be opened by somebody."""
    return vault.read(f"transit/keys/{name.transit}") is not None


def still_opens(vault: Vault, name: KeyName, wrapped: str) -> bool | None:
    """Whether Vault still opens `wrapped` under its wrapping key; None when this login may not find out.

    Asked by wrapping it again, which changes nothing and shows no key. A login without that right can only see whether
    the wrapping key is there.
    """
    context = base64.b64encode(name.transit.encode()).decode()
    try:
        vault.write(f"transit/rewrap/{name.transit}", ciphertext=wrapped, context=context)
    except (VaultRefused, VaultNotFound):
        return False
    except VaultDenied:
        may_rewrap = False
    else:
        may_rewrap = True
    if may_rewrap:
        return True
    try:
        return None if wrapping_key_exists(vault, name) else False  # one that is there may be another one
    except VaultDenied:
        return None


def allow_deletion(vault: Vault, name: KeyName) -> bool:
    """The first half of destroying; False when this login may not."""
    try:
        vault.write(f"transit/keys/{name.transit}/config", deletion_allowed=True)
    except (VaultDenied, VaultRefused):  # refused: the key is gone already
        return False
    return True


def delete_wrapping_key(vault: Vault, name: KeyName) -> bool:
    """The second half; False when this login may not, or nobody has allowed it yet."""
    try:
        vault.delete(f"transit/keys/{name.transit}")
    except (VaultDenied, VaultRefused):
        return False
    return True
