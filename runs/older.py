"""Reads the requests that version 1 stored: four HTTP bodies, distinguished by their members.

A body with `completion` was a chat completion or a response, one with `message_id` an edit, one
with `message` a message, and what is left asked for another answer.
"""

from typing import Any

_SAME = ("agent", "parallel_tools", "memory", "if_busy")


def upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a request of version 1 as one of version 2, without its `version`.

    What is none raises `AttributeError`, `KeyError` or `TypeError`.
    """
    if "completion" in fields:
        return _completion(fields["completion"])
    same: dict[str, Any] = {name: fields[name] for name in _SAME if name in fields}
    if "message_id" in fields:
        branch = {"branch": (fields["conversation_id"], fields["message_id"])}
        return {"messages": [_user(fields)]} | same | branch
    place = {"conversation_id": fields.get("conversation_id")}
    if "message" in fields:
        # The agent was left out where it was the default one.
        return {"agent": "chat"} | same | place | _message(fields)
    return {"must_exist": True, "regenerates": True} | same | place


def _message(fields: dict[str, Any]) -> dict[str, Any]:
    history = fields.get("history", [])
    rules = [each["content"] for each in history if each["role"] in ("system", "developer")]
    said = [each for each in history if each["role"] in ("user", "assistant")]
    return {
        "messages": [_user(fields)],
        "history": said,
        "instructions": rules,
        "reset": fields.get("reset_history", False),
    }


def _user(fields: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": fields["message"]}


def _completion(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("model", "options", "tools", "parallel_tools", "memory", "echo")
    is_kept = fields.get("is_kept", False)
    follows = fields.get("follows")
    return {
        "agent": fields.get("agent", "chat"),
        ("messages" if is_kept else "history"): fields["messages"],
        "instructions": [fields["instructions"]] if fields.get("instructions") else [],
        "branch": (follows, None) if follows else None,
        "ephemeral": True,
        "is_kept": is_kept,
        "is_whole": True,
    } | {name: fields[name] for name in names if name in fields}
