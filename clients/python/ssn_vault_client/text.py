"""Owns one check: that what goes on the wire is text. It exists because protobuf's own complaint about a
wrong type prints the value, and the value may be a number."""


def text(field: str, value: object) -> str:
    """Gives `value` back if it is a `str` that UTF-8 can carry.

    Raises TypeError or ValueError, both naming `field` and never the value.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be str, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            fits = False
        else:
            fits = True
        if not fits:  # outside the handler: the codec's error would carry the whole value as its context
            raise ValueError(f"{field} holds a character that UTF-8 cannot carry")
    return value
