"""Find the prompts that all tokenizers of a pipeline cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._runner import Row, Runner

PLACEHOLDER = "vidrl reads this"  # a prompt that no template contains by chance


class TokenizerCalls:
    """The tokenizer calls of one run, recorded with a placeholder as the prompt.

    A pipeline may wrap the prompt in a template before tokenizing. So one run with
    `PLACEHOLDER` as its prompt records each call's text, and `truncates` puts a real prompt
    in place of the placeholder.
    """

    def __init__(self, runner: Runner, row: Row):
        self.calls: list[tuple[Any, str, Mapping[str, Any]]] = []
        runner.table.append(Row(PLACEHOLDER, row.references))
        tokenizers = {
            name: part
            for name, part in runner.pipe.components.items()
            if hasattr(part, "model_max_length")
        }
        try:
            for name, tokenizer in tokenizers.items():
                setattr(runner.pipe, name, _ListeningTokenizer(tokenizer, self.calls))
            runner.initial_latents(len(runner.table) - 1)
        finally:
            for name, tokenizer in tokenizers.items():
                setattr(runner.pipe, name, tokenizer)

    def truncates(self, prompt: str) -> bool:
        """Return whether every tokenizer that reads the prompt cuts its end off.

        A pipeline with several text encoders of different limits reads the end as long as
        one of them does.
        """
        limits = [
            (tokenizer, text.replace(PLACEHOLDER, prompt), limit)
            for tokenizer, text, arguments in self.calls
            if (limit := _limit(tokenizer, arguments))
        ]
        return bool(limits) and all(
            _tokens(tokenizer, text) > limit for tokenizer, text, limit in limits
        )


class _ListeningTokenizer:
    """A tokenizer wrapper that records the calls whose text contains the placeholder."""

    def __init__(self, tokenizer: Any, calls: list[tuple[Any, str, Mapping[str, Any]]]):
        self.tokenizer, self.calls = tokenizer, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        for one_text in [text] if isinstance(text, str) else text or []:
            if isinstance(one_text, str) and PLACEHOLDER in one_text:
                self.calls.append((self.tokenizer, one_text, kwargs))
        return self.tokenizer(text, *args, **kwargs)


def _limit(tokenizer: Any, arguments: Mapping[str, Any]) -> int:
    """Return the number of tokens that a call keeps, 0 if it does not truncate."""
    if not arguments.get("truncation"):
        return 0
    limit = arguments.get("max_length") or tokenizer.model_max_length
    return limit if limit < 1 << 20 else 0  # transformers' sign for no limit is 10³⁰


def _tokens(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of a text, special tokens included."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
