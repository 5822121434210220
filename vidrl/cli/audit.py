"""vidrl audit, vidrl serve: a reward put to the proof, a reward behind HTTP."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import command

AUDIT = """\
Put any reward through every known way of cheating it, before a policy finds one.

  vidrl audit                                      the default composite
  vidrl audit flicker --clips videos/ --html audit.html
  vidrl audit my_package.rewards:score --quick     fn(samples) -> (B,) numbers; docs/reference/rewards.md says more
  vidrl audit default --optimise                   and best-of-N and random search against it
  vidrl audit aesthetic --clips images/ --clips-count 0     on images; hacks that need time are left out, and listed

A win is a gain above the 95th percentile of what a mild re-encoding of the same clips gains. The share of pairs of clip
and detectable hack that win has a 95 % interval over sources (scenes, and videos). Exit status:

  0  PASS       the whole interval is at most --max-wins
  1  FAIL       the whole interval is above it, or nothing is scored, or (with --optimise) the truth is lost,
                or (with --strict) a check is flagged
  2             the command was used wrongly
  3  NOT SHOWN  neither: with a limit of 2 %, about 200 scenes are needed, --clips-count 200
"""

SERVE = """\
Serve a reward over HTTP, so that a heavy one runs on a machine of its own. The token is that of VIDRL_TOKEN, or a new
one, printed once; the reward `http_scorer` is the client.

  VIDRL_TOKEN=... vidrl serve pick_score --device cuda           there
  ssh -N -L 8765:127.0.0.1:8765 there                            here, in one terminal
  VIDRL_TOKEN=... vidrl score clips/ --reward http_scorer --option url=http://127.0.0.1:8765         in another

Requests are scored one at a time. 512 connections may wait, holding at most 2 GiB of clips; one more is answered 503.
"""


def declare_audit(commands: Any) -> None:
    made = command(commands, "audit", AUDIT, "does a reward pay for cheating?", _audit)
    made.add_argument(
        "reward",
        metavar="REWARD",
        nargs="?",
        default="default",
        help="a name, or package.module:Class or :function; the default composite if not given",
    )
    made.add_argument(
        "--option", metavar="KEY=VALUE", action="append", default=[], help="an option of the reward"
    )
    made.add_argument(
        "--clips", metavar="DIR", help="audit on pieces of these videos, or on these images, too"
    )
    made.add_argument(
        "--side", type=int, default=96, help="their shorter side is shrunk to so many pixels (96)"
    )
    made.add_argument("--clips-count", type=int, metavar="N", help="how many synthetic clips (30)")
    made.add_argument("--size", type=int, default=64, help="the side of the synthetic clips (64)")
    made.add_argument(
        "--frames", type=int, default=17, help="their length (17, at 8 frames a second); 1: images"
    )
    made.add_argument("--hacks", metavar="A,B", help="these hacks alone")
    made.add_argument("--strengths", metavar="S,T", help="at these strengths (0.25,0.5,1)")
    made.add_argument(
        "--quick", action="store_true", help="12 clips, 16 hacks, strengths 0.5 and 1: for CI"
    )
    made.add_argument(
        "--optimise", action="store_true", help="best-of-N and random search against it"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu", help="cpu, cuda ...")
    made.add_argument(
        "--max-wins",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="the share of winning pairs that is allowed (0.02)",
    )
    made.add_argument("--strict", action="store_true", help="fail on a flagged check too")
    for kind, what in (
        ("json", "all numbers"),
        ("html", "one page, readable offline"),
        ("svg", "the picture alone"),
    ):
        made.add_argument(f"--{kind}", metavar="FILE", help=f"write {what}")


def declare_serve(commands: Any) -> None:
    made = command(commands, "serve", SERVE, "a reward behind HTTP", _serve)
    made.add_argument(
        "reward", metavar="REWARD", help="a name, or package.module:Class or :function"
    )
    made.add_argument(
        "--option", metavar="KEY=VALUE", action="append", default=[], help="an option of the reward"
    )
    made.add_argument("--port", type=int, default=8765, help="0 takes a free one (8765)")
    made.add_argument("--host", default="127.0.0.1", help="127.0.0.1: this machine alone")
    made.add_argument(
        "--expose", action="store_true", help="allow a host that others reach; nothing is encrypted"
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda ...")


def _audit(args: argparse.Namespace) -> int:
    from vidrl.audit import command

    return command.main(args)


def _serve(args: argparse.Namespace) -> int:
    from vidrl.recipe import toml
    from vidrl.rewards import load
    from vidrl.rewards._serving.serve import serve

    reward = load(args.reward, **toml.options(args.option))
    serve(reward, args.host, args.port, expose=args.expose, device=args.device)
    return 0
