"""Who calls, as far as certificates and tokens say; what that permits is the policy's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PersonClaim:
    """The person's token that came with a call: `name` when it verified, None when it did not."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the client of the certificate (None: no usable name) and the person's token, if any came.

    `certificate` is the certificate's serial number in lower-case hex.
    """

    client: str | None
    person: PersonClaim | None = None
    certificate: str = ""
