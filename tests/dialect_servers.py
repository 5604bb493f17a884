"""Servers that refuse what OpenAI takes, written from their documentation and from public reports.

Each is a script for `tests.upstream.Upstream`: a function of a request's body that answers, or
refuses in the server's own words. None of them was really met.
"""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import tests.upstream as up

Server: TypeAlias = Callable[[dict[str, Any]], up.Reply]

ANSWER = up.text("Hello.")

_BOUNDS = ("max_tokens", "max_completion_tokens")


def _refused(code: int, body: Any) -> up.Reply:
    return up.Reply((json.dumps(body).encode(),), code, {"content-type": "application/json"})


def _unsupported(param: str, hint: str = "") -> up.Reply:
    text = f"Unsupported parameter: '{param}' is not supported with this model.{hint}"
    return up.status(400, text, param=param, error_code="unsupported_parameter")


def openai_reasoning(body: dict[str, Any]) -> up.Reply:
    """GPT-5 and o-series, on Azure under any name of a deployment.

    https://github.com/BerriAI/litellm/issues/13432;
    temperature: https://github.com/QwenLM/qwen-code/issues/921; parallel_tool_calls:
    https://github.com/evalstate/fast-agent/issues/279
    """
    if "max_tokens" in body:
        return _unsupported("max_tokens", " Use 'max_completion_tokens' instead.")
    for name in ("temperature", "top_p"):
        if body.get(name, 1) != 1:
            text = (
                f"Unsupported value: '{name}' does not support {body[name]} with this model. Only "
                "the default (1) value is supported."
            )
            return up.status(400, text, param=name, error_code="unsupported_value")
    if "parallel_tool_calls" in body:
        return _unsupported("parallel_tool_calls")
    return ANSWER


def mistral(body: dict[str, Any]) -> up.Reply:
    """https://github.com/editor-code-assistant/eca/issues/231"""
    if "max_completion_tokens" not in body:
        return ANSWER
    fault = {
        "type": "extra_forbidden",
        "loc": ["body", "max_completion_tokens"],
        "msg": "Extra inputs are not permitted",
        "input": body["max_completion_tokens"],
    }
    error = {"object": "error", "message": {"detail": [fault]}, "type": "invalid_request_error"}
    return _refused(422, error | {"param": None, "code": None})


def databricks(body: dict[str, Any]) -> up.Reply:
    """https://github.com/continuedev/continue/issues/12936"""
    if "stream_options" in body:
        text = 'Bad request: json: unknown field "stream_options"\n'
        return _refused(400, {"error_code": "BAD_REQUEST", "message": text})
    return up.text("Hello.", usage=None)


def bedrock_gateway(body: dict[str, Any]) -> up.Reply:
    """The wording of https://github.com/BerriAI/litellm/issues/7416"""
    extra = [name for name in ("stream_options", *_BOUNDS) if name in body]
    if not extra:
        return up.text("Hello.", usage=None)
    text = "".join(f"#: extraneous key [{name}] is not permitted" for name in extra)
    return _refused(400, {"message": f"Malformed input request: {text}, please reformat"})


def strict_gateway(body: dict[str, Any]) -> up.Reply:
    """NestJS with `forbidNonWhitelisted`: the reason is beside `error`, not in it.

    https://docs.nestjs.com/techniques/validation#stripping-properties
    """
    known = {"model", "messages", "stream", "tools", "max_completion_tokens"}
    extra = [name for name in body if name not in known]
    if not extra:
        return up.text("Hello.", usage=None)
    faults = [f"property {name} should not exist" for name in extra]
    return _refused(400, {"statusCode": 400, "message": faults, "error": "Bad Request"})


def one_fault_at_a_time(body: dict[str, Any]) -> up.Reply:
    """A server in Go or Rust that reads strictly and stops at the first unknown name.

    The wording of Go's encoding/json with `DisallowUnknownFields`.
    """
    for name in body:
        if name not in {"model", "messages", "stream", "tools", "max_completion_tokens"}:
            return _refused(400, {"error": f'json: unknown field "{name}"'})
    return up.text("Hello.", usage=None)


def deepseek(body: dict[str, Any]) -> up.Reply:
    """https://github.com/UKGovernmentBEIS/inspect_ai/issues/4916"""
    if body.get("response_format", {}).get("type") == "json_schema":
        return up.status(400, "This response_format type is unavailable now")
    return ANSWER


def no_structured_output(body: dict[str, Any]) -> up.Reply:
    """A model without JSON mode: platform.openai.com/docs/guides/structured-outputs"""
    if kind := body.get("response_format", {}).get("type"):
        text = f"Invalid parameter: 'response_format' of type '{kind}' is not supported"
        return up.status(400, f"{text} with this model.", param="response_format")
    return ANSWER


def kimi(body: dict[str, Any]) -> up.Reply:
    """https://github.com/Warma10032/VideoAdGuard/issues/34, iOfficeAI/gemini-cli-pro/pull/30"""
    for name, only in (("temperature", 1), ("top_p", 0.95)):
        if body.get(name, only) != only:
            text = f"invalid {name}: only {only} is allowed for this model"
            error = {"message": text, "type": "invalid_request_error"}
            return _refused(400, {"error": error})
    return ANSWER


def ollama_without_tools(body: dict[str, Any]) -> up.Reply:
    """https://github.com/louisho5/picobot/issues/6"""
    if "tools" in body:
        text = "registry.ollama.ai/library/gemma3:4b does not support tools"
        return up.status(400, text, error_type="api_error")
    return ANSWER


def vllm_without_tools(body: dict[str, Any]) -> up.Reply:
    """https://docs.vllm.ai/en/latest/features/tool_calling.html, serving/utils of its source"""
    if "tools" in body:
        text = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be'
        return up.status(400, f"{text} set", error_type="BadRequestError", error_code="400")
    return ANSWER


def gemini(body: dict[str, Any]) -> up.Reply:
    """https://github.com/jackmpcollins/magentic/pull/382"""
    if "parallel_tool_calls" not in body:
        return ANSWER
    text = 'Invalid JSON payload received. Unknown name "parallel_tool_calls": Cannot find field.'
    detail = {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"description": text}],
    }
    error = {"code": 400, "message": text, "status": "INVALID_ARGUMENT", "details": [detail]}
    return _refused(400, [{"error": error}])


def openrouter(body: dict[str, Any]) -> up.Reply:
    """https://openrouter.ai/docs/api-reference/errors-and-debugging, reVrost/go-openrouter#21"""
    if "temperature" not in body:
        return ANSWER
    raw = {"error": {"message": "`temperature` is deprecated for this model.", "type": "invalid"}}
    error = {
        "message": "Provider returned error",
        "code": 400,
        "metadata": {"raw": json.dumps(raw), "provider_name": "Anthropic"},
    }
    return _refused(400, {"error": error, "user_id": "user_1"})


def refusing_in_its_stream(body: dict[str, Any]) -> up.Reply:
    """A gateway that has sent its head already: https://openrouter.ai/docs/api-reference/errors"""
    if "stream_options" not in body:
        return ANSWER
    error = {"code": 400, "message": "Unknown parameter: 'stream_options'."}
    return up.raw(b": PROCESSING\n\n", up.sse({"error": error, "choices": []}), up.DONE)


TEMPLATE_REFUSAL = """
------------
While executing CallExpression at line 19, column 27 in source:
...% 2 == 0) -%}↵        {{ raise_exception("Conversation roles must alternate user...
                                           ^
Error: Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/..."""


def llama_cpp_template(_body: dict[str, Any]) -> up.Reply:
    """https://github.com/idiap/sdialog/issues/122"""
    error = {"code": 500, "message": TEMPLATE_REFUSAL, "type": "server_error"}
    return _refused(500, {"error": error})
