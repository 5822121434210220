"""vidrl.backbones._repeated_messages: a pipeline's message is shown once, not at every prediction."""

import io
import logging
from collections.abc import Iterator

import pytest

from vidrl.backbones._repeated_messages import ShownOnce


def test_a_message_is_shown_once_by_each_handler_and_others_as_well() -> None:
    streams, logger = [io.StringIO(), io.StringIO()], logging.getLogger("a_library")
    for stream in streams:
        logger.addHandler(logging.StreamHandler(stream))
    once = ShownOnce()
    for _ in range(3):
        with once.of("a_library"):
            logging.getLogger("a_library.part").warning("shift %d", 3)
            logging.getLogger("a_library.part").warning("shift %d", 4)
    assert [stream.getvalue() for stream in streams] == ["shift 3\nshift 4\n"] * 2
    logging.getLogger("a_library.part").warning("shift %d", 3)  # the library is as it was
    assert streams[1].getvalue() == "shift 3\nshift 4\nshift 3\n"


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What diffusers shows, which is silent in other tests from its import on."""
    pytest.importorskip("diffusers.schedulers", reason="needs vidrl[train]")
    stream, logger = io.StringIO(), logging.getLogger("diffusers")
    handler, level = logging.StreamHandler(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_pipeline_that_warns_of_its_schedule_warns_once(shown: io.StringIO) -> None:
    from families import FAMILIES

    from vidrl.backbones.pipeline import Pipeline

    family = FAMILIES["ltx_condition"]
    backbone = Pipeline(family.build(), dict(family.call))
    backbone.times(3)
    backbone.times(4)
    assert shown.getvalue().count("were passed without `sigmas`") == 1
