"""Answers that are held to a grammar."""

import json
import re
from typing import Any

import aiohttp
import jsonschema
import pytest
from support.engine_client import call, generate

pytestmark = pytest.mark.timeout(20, func_only=True)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}},
    ],
)
async def test_an_answer_is_a_document_of_its_schema(http: aiohttp.ClientSession, grammar: dict[str, Any]) -> None:
    answer = await generate(http, "Ada is a cat.", max_new_tokens=60, grammar=grammar)
    assert answer["details"]["finish_reason"] == "eos_token"
    jsonschema.validate(json.loads(answer["generated_text"]), SCHEMA)


async def test_a_sampled_answer_keeps_to_its_schema_too(http: aiohttp.ClientSession) -> None:
    grammar = {"type": "json", "value": SCHEMA}
    answer = await generate(http, "Ada:", max_new_tokens=60, grammar=grammar, temperature=1.5, seed=3)
    jsonschema.validate(json.loads(answer["generated_text"]), SCHEMA)


async def test_an_answer_matches_its_expression(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, "My number:", max_new_tokens=30, grammar={"type": "regex", "value": r"\d{3}-\d{4}"})
    assert re.fullmatch(r"\d{3}-\d{4}", answer["generated_text"])


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "regex", "value": "("},
        {"type": "json", "value": {"type": "nonsense"}},
        {"type": "json", "value": {"$ref": "#/$defs/missing"}},
        {"type": "json", "value": "not json"},
    ],
)
async def test_a_grammar_that_is_wrong_is_refused(http: aiohttp.ClientSession, grammar: dict[str, Any]) -> None:
    status, error = await call(http, "/generate", {"inputs": "x", "parameters": {"grammar": grammar}})
    assert status == 422
    assert error["error_type"] == "validation"
    assert "grammar" in error["error"]
