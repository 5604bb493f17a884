"""A client of server-sent events as the HTML standard has it (9.2.6), field by field."""

import re
from typing import NamedTuple


class Message(NamedTuple):
    """What a client dispatches. `id` is the last one that was heard, as it would resume with."""

    id: str
    event: str
    data: str


def dispatched(stream: bytes) -> list[Message]:
    """Return all messages of a stream; one that its end cuts off is none."""
    messages, last_id, name, data = [], "", "", ""
    for line in re.split("\r\n|\r|\n", stream.decode().removeprefix("\ufeff"))[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                messages.append(Message(last_id, name or "message", data.removesuffix("\n")))
            name = data = ""
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
    return messages
