"""Each text as one message in a model's own chat template, written into its tokenizer.

What the template puts before and behind a message goes into the post-processor of ``tokenizer.json``, as EOS does:
every runtime reads that file, so none has to know of the template, prompts stay prefixes, and what is cut is the
message.
"""

from __future__ import annotations

import json
from typing import Any

from .errors import ArtifactError

_MARK = "message"


def add_chat(tokenizer: Any) -> bool:
    """Make a fast tokenizer put every text into a user's message of its chat template.

    No turn of the assistant is begun (``add_generation_prompt``), as in Tevatron; what the tokenizer puts around a text
    already (BOS, EOS) stays outermost.

    Returns:
        Whether something was changed: not where a text stands in its message already.

    Raises:
        ArtifactError: it has no chat template, or one that does not take a text.
    """
    before, after = _around(tokenizer)
    front, behind = frame(tokenizer)
    if front[-len(before) :] == before and behind[: len(after)] == after:
        return False
    if front and before[: len(front)] == front:  # a template that begins with BOS itself
        before = before[len(front) :]
    if behind and after[-len(behind) :] == behind:
        after = after[: -len(behind)]
    _write(tokenizer, [*front, *before], [*after, *behind])
    return True


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and behind every text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, marks = list(found["input_ids"]), list(found["special_tokens_mask"])
    if 0 not in marks:  # the text is nothing to it
        return [], ids
    return ids[: marks.index(0)], ids[len(marks) - marks[::-1].index(0) :]


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the template puts before and behind a message."""
    if not tokenizer.chat_template:
        raise ArtifactError(
            f"{tokenizer.name_or_path}: no chat template (chat_template.jinja); expected one for model.format: chat. "
            "Copy that of the model it was made from, or use format: plain"
        )
    from jinja2.exceptions import TemplateError

    try:
        written: str = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{tokenizer.name_or_path}: the chat template takes no text as a message: {error}"
        ) from None
    parts = written.split(_MARK)
    if len(parts) != 2:
        raise ArtifactError(
            f"{tokenizer.name_or_path}: the chat template writes a message {len(parts) - 1} times; expected once"
        )
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts)
    return before, after


def _write(tokenizer: Any, before: list[int], after: list[int]) -> None:
    """Put ids around every text by the post-processor, in the place of what it put there so far."""
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    whole = json.loads(backend.to_str())
    found = whole.get("post_processor")
    steps = found["processors"] if found and found["type"] == "Sequence" else [found] if found else []
    others = [one for one in steps if one["type"] == "ByteLevel"]  # does not add tokens: it corrects their places
    names = tokenizer.convert_ids_to_tokens
    parts = {f"<{where} the message>": ids for where, ids in (("before", before), ("behind", after)) if ids}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    around = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in parts}
    template = {
        "type": "TemplateProcessing",
        "single": _framed([text], around),
        "pair": _framed([text, other], around),
        "special_tokens": {name: {"id": name, "ids": ids, "tokens": names(ids)} for name, ids in parts.items()},
    }
    whole["post_processor"] = {"type": "Sequence", "processors": [*others, template]} if others else template
    backend.post_processor = Tokenizer.from_str(json.dumps(whole)).post_processor


def _framed(texts: list[dict[str, Any]], around: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    first = [part for name, part in around.items() if name.startswith("<before")]
    last = [part for name, part in around.items() if name.startswith("<behind")]
    return [*first, *texts, *last]
