from __future__ import annotations

import pytest

from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError
from teva_data.rendering import Renderer


@pytest.fixture(scope="module")
def artifact(tiny_model):
    return Artifact.load(tiny_model)


def test_prompts_and_titles(artifact):
    renderer = Renderer.from_artifact(artifact, query_prompt="Q: ", document_prompt="D: ")
    assert renderer.query(" red") == "Q:  red"
    assert renderer.query("red", prompt="own ") == "own red"
    assert renderer.query("red", prompt="") == "red"
    # Training and encoding go through these lines both; a published toolkit joins titles in one of them only.
    assert renderer.document("text", "title") == "D: title text"
    assert renderer.document("text") == "D: text"
    assert renderer.document("", "title") == "D: title"


def test_tokens_are_cut_with_their_special_tokens(artifact):
    renderer = Renderer.from_artifact(artifact, max_length=6)
    tokenizer = renderer.tokenizer
    (ids,) = renderer.tokenize(["red blue green fast slow river mountain"])
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "red", "blue", "green", "fast", "[SEP]"]
    assert [len(x) for x in renderer.tokenize(["red blue green", "red"], 4)] == [4, 3]
    # A larger limit than the renderer's does not lift it.
    assert len(renderer.tokenize(["red " * 50], 40)[0]) == 6
    assert renderer.tokenize([]) == []
    assert renderer.tokenize([""]) == [[tokenizer.cls_token_id, tokenizer.sep_token_id]]


def test_a_limit_that_leaves_no_room(artifact):
    with pytest.raises(ArtifactError, match="more than the 2 special tokens"):
        Renderer.from_artifact(artifact, max_length=2)


def test_lower_case(artifact):
    renderer = Renderer(Renderer.from_artifact(artifact).tokenizer, query_prompt="Ask ", max_length=9, lowercase=True)
    assert renderer.query("RED") == "ask red"
