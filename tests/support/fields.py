"""Every string field of a message, wherever it stands in it: for tests that fill each of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def with_texts(request: Message, texts: Sequence[str]) -> Iterator[Message]:
    """Copies of `request`, each with one of `texts` in one string field somewhere in it."""
    for change in _string_fields(request):
        for text in texts:
            copy = type(request)()
            copy.CopyFrom(request)
            change(copy, text)
            yield copy


def _string_fields(message: Message, path: tuple[Any, ...] = ()) -> Iterator[Callable[[Any, str], None]]:
    """For each string field in `message` and in what it holds: a function that sets it in a message of that kind."""
    for descriptor in message.DESCRIPTOR.fields:
        name, repeated = descriptor.name, descriptor.is_repeated
        if descriptor.type == FieldDescriptor.TYPE_STRING:

            def change(root: Any, text: str, name: str = name, repeated: bool = repeated) -> None:
                for part in path:
                    root = part(root)
                if repeated:
                    getattr(root, name).append(text)
                else:
                    setattr(root, name, text)

            yield change
        elif descriptor.type == FieldDescriptor.TYPE_MESSAGE:

            def step(root: Any, name: str = name, repeated: bool = repeated) -> Any:
                return getattr(root, name)[0] if repeated else getattr(root, name)

            yield from _string_fields(step(message), (*path, step))
