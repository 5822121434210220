"""Show a run's progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrl.lookup.extras import install


def progress(total: int, done: int, shown: bool) -> Any:
    """Return a progress bar over the rounds; it prints nothing unless `shown`."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f"expected tqdm for training, found none: {install('train')}") from error
    return tqdm(total=total, initial=done, desc="round", unit="round", disable=not shown)


def postfix(row: Mapping[str, Any]) -> str:
    """Return the numbers of a round that the progress bar shows."""
    shown = [f"reward {row['reward']['mean']:+.3f}"] if "reward" in row else []
    shown += (
        [f"ratio {row['ratio']['mean']:.5f}, clip {row.get('clip_share', 0.0):.0%}"]
        if "ratio" in row
        else []
    )
    shown += [f"error {row['data_error']:.4f}"] if "data_error" in row else []
    return ", ".join(shown)
