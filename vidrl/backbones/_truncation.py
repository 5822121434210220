"""How a pipeline gives a prompt to its tokenizers, and which prompts they cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._runner import Row, Runner

PLACEHOLDER = "vidrl reads this"  # a prompt that is looked for in what the tokenizers are given


class TokenizerCalls:
    """The calls of a pipeline's tokenizers in one run: each with its text, in which MARK
    stands for the prompt."""

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
        """Whether every tokenizer that reads prompts cuts the end of this one off."""
        limits = [
            (tokenizer, text.replace(PLACEHOLDER, prompt), limit)
            for tokenizer, text, arguments in self.calls
            if (limit := _limit(tokenizer, arguments))
        ]
        return bool(limits) and all(
            _tokens(tokenizer, text) > limit for tokenizer, text, limit in limits
        )


class _ListeningTokenizer:
    """A tokenizer that notes the texts it is given."""

    def __init__(self, tokenizer: Any, calls: list[tuple[Any, str, Mapping[str, Any]]]):
        self.tokenizer, self.calls = tokenizer, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        for text_given in [text] if isinstance(text, str) else text or []:
            if isinstance(text_given, str) and PLACEHOLDER in text_given:
                self.calls.append((self.tokenizer, text_given, kwargs))
        return self.tokenizer(text, *args, **kwargs)


def _limit(tokenizer: Any, arguments: Mapping[str, Any]) -> int:
    """The number of tokens that a call reads, 0 for all."""
    if not arguments.get("truncation"):
        return 0
    limit = arguments.get("max_length") or tokenizer.model_max_length
    return limit if limit < 1 << 20 else 0  # transformers' sign for no limit is 10³⁰


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
