"""What models of all sizes say of an exchange, and what is read of it."""

import pytest

from memory import Unreadable
from memory.extraction import MAX_FACT_CHARS, MAX_FACTS, facts_in

BOTH = ["Likes pasta.", "Has a cat."]
OBJECTS = '[{"text": "Likes pasta."}, {"text": "Has a cat."}]'
TEXTS = '["Likes pasta.", "Has a cat."]'

GOOD = {
    "as it was asked for": f'{{"memory": {OBJECTS}}}',
    "texts instead of objects": f'{{"memory": {TEXTS}}}',
    "a bare list": OBJECTS,
    "a bare list of texts": TEXTS,
    "facts instead of memory": f'{{"facts": {TEXTS}}}',
    "memories instead of memory": f'{{"memories": {OBJECTS}}}',
    "more beside": f'{{"thoughts": "…", "memory": {OBJECTS}, "n": [1, 2]}}',
    "a fence": f'```json\n{{"memory": {OBJECTS}}}\n```',
    "a fence around a list": f"```\n{TEXTS}\n```",
    "words around": f'Here [as asked], for {{user}}: {{"memory": {OBJECTS}}} Hope {{that}} [helps]',
    "words around a list": f"Facts [2]: {TEXTS} - two.",
    "reasoning": f'<think>Maybe {{"memory": ["draft"]}}</think>{{"memory": {OBJECTS}}}',
    "reasoning that began in the template": f'["draft"]?</think>\n\n{{"memory": {OBJECTS}}}',
    "another object around it": f'{{"result": {{"memory": {OBJECTS}}}}}',
    "Magistral's reasoning": f'[THINK]["draft"][/THINK]{OBJECTS}',
    "a draft of one fact first": f'Hm, {{"text": "draft"}}. So: {{"memory": {OBJECTS}}}',
    "the schema first": '{"type": "object", "properties": {"memory": {"type": "array"}}}\n'
    + OBJECTS,
    "one object a line": '{"text": "Likes pasta."}\n{"text": "Has a cat."}',
    "other names for the text": '[{"memory": "Likes pasta."}, {"fact": "Has a cat.", "id": 2}]',
    "nulls for what is not needed": '{"memory": [{"id": null, "text": "Likes pasta.", '
    '"attributed_to": null, "linked_memory_ids": null}, "Has a cat."]}',
    "empty items": '{"memory": [null, "Likes pasta.", {}, "", "Has a cat."]}',
    "blanks": '{"memory": ["  Likes pasta.\\n", "Has a cat."]}',
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
def test_facts_are_read_in_whatever_way_they_are_said(answer: str) -> None:
    reading = facts_in(answer)
    assert ([fact.text for fact in reading.facts], reading.unread) == (BOTH, 0)


NOTHING = (
    *('{"memory": []}', '{"memory": null}', '{"facts": []}', "[]", "```json\n[]\n```"),
    *('<think>["draft"]</think>{"memory": []}', '{"memory": [null]}', "Nothing new: []"),
)


@pytest.mark.parametrize("answer", NOTHING)
def test_there_may_be_nothing_to_remember(answer: str) -> None:
    assert facts_in(answer) == ([], 0)


BAD_ITEMS = {
    '{"memory": [5, "Likes pasta.", {"id": "1"}, "Has a cat.", [1], true]}': 4,
    '{"memory": [{"text": 5}, {"text": "Likes pasta."}, {"text": "Has a cat."}]}': 1,
    '{"memory": [{"text": "Says "no"", "linked_memory_ids": ["7"]}, {"text": "Likes pasta."}, '
    '{"text": "Has a cat."}]}': 1,
    '{"memory": [{"text": "Likes pasta.", "linked_memory_ids": ["7"]}, {"text": "Has a cat."}, '
    '{"text": "Lives in': 1,
    '{"memory": [{"text": "Likes pasta."}, {"text": "Has a cat."},]}': 0,
}


@pytest.mark.parametrize(("answer", "unread"), BAD_ITEMS.items())
def test_a_bad_item_costs_only_itself_and_is_counted(answer: str, unread: int) -> None:
    reading = facts_in(answer)
    assert ([fact.text for fact in reading.facts], reading.unread) == (BOTH, unread)


UNREADABLE = (
    *("", "There is nothing to remember.", "null", "{}", "5", "[1]", '"Likes pasta."'),
    *(
        "The user likes [pasta] and {wine}.",
        '{"answer": "Likes pasta."}',
        '{"memory": "no"}',
        "{'memory': ['a']}",
    ),
    *("[" * 100_000, "{" * 100_000, '{"a":' * 40_000, "[1] " * 50_000, '{"memory": [7]}'),
)


@pytest.mark.parametrize("answer", UNREADABLE, ids=lambda answer: answer[:20])
def test_an_answer_of_another_form_is_not_taken_for_an_empty_one(answer: str) -> None:
    with pytest.raises(Unreadable):
        facts_in(answer)


def test_who_said_it_is_kept_where_it_is_known() -> None:
    said = ("user", "assistant", "Maria", None, 7)
    items = ", ".join(
        f'{{"text": "a", "attributed_to": {value}}}'
        for value in ('"user"', '"assistant"', '"Maria"', "null", "7")
    )
    found = [fact.attributed_to for fact in facts_in(f"[{items}]").facts]
    assert found == ["assistant" if each == "assistant" else "user" for each in said]


def test_an_exchange_makes_a_bounded_number_of_facts_of_a_bounded_length() -> None:
    many = facts_in(str([MAX_FACT_CHARS * "x" + "y"] * (MAX_FACTS + 1)).replace("'", '"'))
    assert {fact.text for fact in many.facts} == {MAX_FACT_CHARS * "x"}
    assert (len(many.facts), many.unread) == (MAX_FACTS, 0)


def test_half_a_character_costs_no_fact() -> None:
    assert facts_in('\ud800{"memory": ["\\ud83dpasta"]}').facts[0].text.endswith("pasta")
