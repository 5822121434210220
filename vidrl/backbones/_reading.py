"""How a pipeline gives a prompt to its tokenizers, and which prompts they cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._drive import Drive, Row

MARK = "vidrl reads this"  # a prompt that is looked for in what the tokenizers are given


class Reading:
    """The calls of a pipeline's tokenizers in one run: each with its text, in which MARK
    stands for the prompt."""

    def __init__(self, drive: Drive, row: Row):
        self.calls: list[tuple[Any, str, Mapping[str, Any]]] = []
        drive.table.append(Row(MARK, row.references))
        tokenizers = {
            name: part
            for name, part in drive.pipe.components.items()
            if hasattr(part, "model_max_length")
        }
        try:
            for name, tokenizer in tokenizers.items():
                setattr(drive.pipe, name, _Heard(tokenizer, self.calls))
            drive.first(len(drive.table) - 1)
        finally:
            for name, tokenizer in tokenizers.items():
                setattr(drive.pipe, name, tokenizer)

    def cuts(self, prompt: str) -> bool:
        """Whether every tokenizer that reads prompts cuts the end of this one off."""
        limits = [
            (tokenizer, text.replace(MARK, prompt), limit)
            for tokenizer, text, given in self.calls
            if (limit := _limit(tokenizer, given))
        ]
        return bool(limits) and all(
            _tokens(tokenizer, text) > limit for tokenizer, text, limit in limits
        )


class _Heard:
    """A tokenizer that notes the texts it is given."""

    def __init__(self, tokenizer: Any, calls: list[tuple[Any, str, Mapping[str, Any]]]):
        self.tokenizer, self.calls = tokenizer, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        for one in [text] if isinstance(text, str) else text or []:
            if isinstance(one, str) and MARK in one:
                self.calls.append((self.tokenizer, one, kwargs))
        return self.tokenizer(text, *args, **kwargs)


def _limit(tokenizer: Any, given: Mapping[str, Any]) -> int:
    """The number of tokens that a call reads, 0 for all."""
    if not given.get("truncation"):
        return 0
    limit = given.get("max_length") or tokenizer.model_max_length
    return limit if limit < 1 << 20 else 0  # transformers' sign for no limit is 10³⁰


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
