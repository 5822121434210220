"""Defines `vidrl audit`, which tests a reward for weaknesses, and `vidrl serve`."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import command, device, new_file, whole_number

AUDIT = """\
Test a reward against known ways of cheating it, before a policy finds one of them.

  vidrl audit                                      the default composite
  vidrl audit flicker --clips videos/ --html audit.html
  vidrl audit my_package.rewards:score --quick     your function fn(samples) -> (B,) numbers
  vidrl audit default --optimise                   also best-of-N and random search against it
  vidrl audit aesthetic --clips images/ --clips-count 0     images only

A hack wins on a clip if it raises the reward by more than the 95th percentile of what a mild
re-encoding of the same clips gains. The command prints the fraction of wins among all pairs of a
clip and a detectable hack, with a 95 % interval over sources (scenes and videos). On images,
hacks that need time are left out and listed. docs/reference/rewards.md describes rewards of your
own. Exit status:

  0  PASS       the whole interval is at most --max-wins
  1  FAIL       the whole interval is above --max-wins; or no clip could be scored; or, with
                --optimise, the search lost what the prompt asks for; or, with --strict, a check
                is flagged
  2             the command was used wrongly
  3  NOT SHOWN  the interval contains --max-wins: measure more scenes. A limit of 2 % needs
                about 200 scenes, --clips-count 200
"""

SERVE = """\
Serve a reward over HTTP, so that a heavy reward can run on another machine. The reward
`http_scorer` is the client. The access token is read from VIDRL_TOKEN; without VIDRL_TOKEN a new
token is made and printed once.

On the machine that scores:
  VIDRL_TOKEN=... vidrl serve pick_score --device cuda
On your machine, in one terminal and in another:
  ssh -N -L 8765:127.0.0.1:8765 MACHINE_THAT_SCORES
  VIDRL_TOKEN=... vidrl score clips/ --reward http_scorer --option url=http://127.0.0.1:8765

Requests are scored one at a time. At most --queue requests and 512 connections wait, with at most
2 GiB of clips; further ones are answered with status 503, and come again. Several servers of one
reward share the work of a client that names all of them:
  vidrl score clips/ --reward http_scorer --option urls='["http://127.0.0.1:8765",
    "http://127.0.0.1:8766"]'
GET /health shows the reward, its versions, the requests that wait, and the machine's load.
"""

REWARD = "a reward's name, or your class or function as package.module:NAME"
# the files that the audit can write: (format and option, what the file holds)
FILES = (
    ("json", "all numbers as JSON"),
    ("html", "one page that can be read offline"),
    ("svg", "the picture of the page as SVG"),
)


def declare_audit(commands: Any) -> None:
    """Declare the command `audit`."""
    audit = command(commands, "audit", AUDIT, "test whether a reward can be cheated", _audit)
    audit.add_argument(
        "reward",
        metavar="REWARD",
        nargs="?",
        default="default",
        help=f"{REWARD} (the default composite)",
    )
    _declare_option(audit)
    _declare_clips(audit)
    audit.add_argument("--hacks", metavar="A,B", help="try only these hacks (all)")
    audit.add_argument(
        "--strengths", metavar="S,T", help="apply each hack at these strengths (0.25,0.5,1)"
    )
    audit.add_argument(
        "--quick",
        action="store_true",
        help="use 12 clips, 16 hacks and the strengths 0.5 and 1, for continuous integration",
    )
    audit.add_argument(
        "--optimise",
        action="store_true",
        help="also search for clips with a high reward, by best-of-N and random search",
    )
    audit.add_argument("--seed", type=int, default=0, help="the seed of the audit (0)")
    audit.add_argument(
        "--device",
        type=device,
        default="cpu",
        help="the device that scores: cpu, cuda ... (cpu)",
    )
    audit.add_argument(
        "--max-wins",
        type=float,
        default=0.02,
        metavar="FRACTION",
        help="the fraction of winning pairs that is allowed (0.02)",
    )
    audit.add_argument("--strict", action="store_true", help="also fail if a check is flagged")
    for kind, content in FILES:
        audit.add_argument(f"--{kind}", type=new_file, metavar="FILE", help=f"write {content}")


def _declare_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set an option of the reward; may be repeated",
    )


def _declare_clips(audit: argparse.ArgumentParser) -> None:
    """Declare the options that choose the clips of the audit."""
    audit.add_argument(
        "--clips",
        metavar="DIR",
        help="also use pieces of the videos, or the images, in this folder",
    )
    audit.add_argument(
        "--side",
        type=whole_number(1),
        default=96,
        metavar="PIXELS",
        help="the length to which the shorter side of the videos in --clips is shrunk (96)",
    )
    audit.add_argument(
        "--clips-count",
        type=whole_number(0),
        metavar="N",
        help="the number of synthetic clips (30)",
    )
    audit.add_argument(
        "--size",
        type=whole_number(8),
        default=64,
        metavar="PIXELS",
        help="height and width of the synthetic clips (64)",
    )
    audit.add_argument(
        "--frames",
        type=whole_number(1),
        default=17,
        metavar="N",
        help="frames of the synthetic clips, at 8 frames a second (17); 1 makes images",
    )


def declare_serve(commands: Any) -> None:
    """Declare the command `serve`."""
    serve = command(commands, "serve", SERVE, "serve a reward over HTTP", _serve)
    serve.add_argument("reward", metavar="REWARD", help=REWARD)
    _declare_option(serve)
    serve.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=8765,
        metavar="N",
        help="the port to listen on (8765); 0 chooses a free port",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (127.0.0.1, which only this machine can reach)",
    )
    serve.add_argument(
        "--expose",
        action="store_true",
        help="allow a --host that other machines can reach; the traffic is not encrypted",
    )
    serve.add_argument(
        "--device",
        type=device,
        default="cpu",
        help="the device that scores: cpu, cuda ... (cpu)",
    )
    serve.add_argument(
        "--queue",
        type=whole_number(1),
        default=256,
        metavar="N",
        help="how many requests may wait (256); one more is answered 503, and comes again",
    )


def _audit(args: argparse.Namespace) -> int:
    from vidrl.audit import command

    return command.main(args)


def _serve(args: argparse.Namespace) -> int:
    from vidrl.recipe import toml
    from vidrl.rewards import load
    from vidrl.rewards._serving.serve import serve

    reward = load(args.reward, **toml.options(args.option))
    serve(reward, args.host, args.port, expose=args.expose, device=args.device, queue=args.queue)
    return 0
