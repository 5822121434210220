"""Defines the command `vidrl label`, which shows clips to people and keeps their answers."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _model
from ._declare import command, device, new_file, new_folder, number, whole_number
from .sample import BACKBONE_OPTIONS

if TYPE_CHECKING:
    from vidrl.feedback.labelling.clip_sets import ClipSet
    from vidrl.feedback.labelling.desk import Desk
    from vidrl.feedback.questionnaire import Questionnaire
    from vidrl.feedback.selection import Selection

PACKAGES = ("starlette", "uvicorn", "sqlalchemy", "jinja2")
PORT = 8321
LABEL = """\
Show clips to people on a local page, and keep what people answer in a store.

  vidrl label base/ ours/ --store taste.db
  vidrl label clips/ --mode points --scale videofeedback --store points.db
  vidrl label --model assets/tiny-wan --prompts assets/prompts/world_held_out.txt --store taste.db
  vidrl label --store taste.db --report

Clips of one prompt are compared: the prompts of prompts.csv in each folder, as `vidrl sample`
writes it, or files of one name. With several folders a pair has clips of two folders. With a
model, --samples clips of each prompt are sampled into the folder --out first.

Raters see clips without names, on random sides. --random is the share of pairs that are drawn at
random, whose averages are estimates for all pairs; the others are the pairs from which most can be
learned. Some pairs are shown twice, with the sides exchanged, and --gold names pairs whose answer
is known: both show how consistent a rater is.

The page needs the link that is printed, with its token. Only this machine can open it, unless
--public is given. The token is new at each start, or the environment variable VIDRL_TOKEN, of at
least 16 letters, digits, - or _.
"""


def declare(commands: Any) -> None:
    """Declare the command `label`."""
    label = command(commands, "label", LABEL, "let people compare clips on a local page", _label)
    label.add_argument("folders", metavar="DIR", nargs="*", help="folders of clips")
    label.add_argument(
        "--store",
        default="taste.db",
        metavar="FILE or URL",
        help="the store of the answers: a SQLite file (taste.db in this folder), or "
        "postgresql://host/name",
    )
    label.add_argument(
        "--report",
        action="store_true",
        help="print the report on the raters of --store (`vidrl pairs report`); serve no page",
    )
    label.add_argument(
        "--html", type=new_file, metavar="FILE", help="with --report: one page to be read offline"
    )
    _declare_questions(label.add_argument_group("questions"))
    _declare_order(label.add_argument_group("which clips next"))
    _declare_server(label.add_argument_group("server"))
    _declare_sampling(label.add_argument_group("clips of a model"))


def _declare_questions(group: Any) -> None:
    group.add_argument(
        "--mode",
        choices=("pairs", "points", "ranking"),
        default="pairs",
        help="compare two clips (pairs), give one clip points, or rank several clips",
    )
    group.add_argument(
        "--axes", metavar="FILE", help="a TOML file of your own axes and tags (see docs/people.md)"
    )
    group.add_argument(
        "--scale",
        choices=("videofeedback", "videoscore2"),
        help="for points, in place of --axes: five aspects from 1 to 4, or three from 1 to 5 "
        "(videoscore2)",
    )
    group.add_argument(
        "--rank", type=whole_number(2, 8), default=4, metavar="N", help="clips of a ranking (4)"
    )
    group.add_argument("--hide-prompt", action="store_true", help="do not show the prompt")


def _declare_order(group: Any) -> None:
    group.add_argument(
        "--count", type=whole_number(1), default=60, metavar="N", help="answers of a rater (60)"
    )
    group.add_argument(
        "--random", type=number(0), default=0.2, metavar="P", help="share of random pairs (0.2)"
    )
    group.add_argument(
        "--repeats", type=number(0), default=0.05, metavar="P", help="share of repeats (0.05)"
    )
    group.add_argument(
        "--gold",
        metavar="FILE",
        help="pairs whose answer is known: .csv, .jsonl or .toml; its paths start in its folder",
    )
    group.add_argument(
        "--gold-share", type=number(0), default=0.05, metavar="P", help="share of gold pairs (0.05)"
    )
    group.add_argument(
        "--reward",
        metavar="DIR",
        dest="fitted",
        help="a reward that `vidrl fit` wrote: pairs that it is unsure about are shown more often",
    )


def _declare_server(group: Any) -> None:
    group.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=PORT,
        help=f"the port ({PORT}); 0: a free one",
    )
    group.add_argument(
        "--public", action="store_true", help="let other machines open the page, unencrypted"
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this machine, such as that of a proxy; may be repeated",
    )
    group.add_argument("--open", action="store_true", help="open the page in a browser here")
    group.add_argument(
        "--until",
        type=whole_number(1),
        metavar="N",
        help="end when all raters together have given N answers on these clips (ctrl-C)",
    )


def _declare_sampling(group: Any) -> None:
    _model.declare(group)
    group.add_argument("--prompts", metavar="FILE", help="sample the prompts of this file")
    group.add_argument(
        "--samples", type=whole_number(2), default=2, metavar="N", help="clips of each prompt (2)"
    )
    group.add_argument(
        "--out",
        type=new_folder,
        metavar="DIR",
        help="the folder of the clips (STORE.clips; vidrl_label.clips for a database server)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    group.add_argument("--steps", type=whole_number(1), metavar="N", help="denoising steps")
    group.add_argument("--device", type=device, default="", help="cpu, cuda ...")


def _label(args: argparse.Namespace) -> int:
    if args.report:
        return _report(args)
    if args.html:
        raise ValueError(f"expected --report with --html, got --html {args.html} alone")
    _check_packages()
    from vidrl.feedback.labelling import app, serve

    token = serve.chosen_token()
    listener = serve.bind(args.port, args.public)  # before the sampling, which takes minutes
    with listener:
        desk = _desk(args, _folders(args))
        port = listener.getsockname()[1]
        hosts = serve.hosts(port, args.public, args.allow_host)
        link = f"http://{serve.names(args.public)[0]}:{port}/?token={token}"
        _print_start(args, desk, link)
        enough = desk.complete if args.until else None
        serve.run(app.build(desk, token, hosts), listener, enough)
    _print_end(args, desk)
    return 0


def _report(args: argparse.Namespace) -> int:
    """Print the report on the raters of the store."""
    from vidrl.feedback import raters, raters_page

    print(raters_page.page(raters.run(args.store, html=args.html)), end="")
    if args.html:
        print(f"\nfiles: {args.html}")
    return 0


def _check_packages() -> None:
    """Raise ImportError with the command that installs what the page needs."""
    from vidrl.lookup.extras import install

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"expected the packages {', '.join(PACKAGES)} for `vidrl label`, found no "
            f"{' and no '.join(missing)}: {install('label')}"
        )


def _folders(args: argparse.Namespace) -> list[str]:
    """Return the folders of clips: those that are named, or that of clips sampled now."""
    named = [args.model, args.recipe, args.run_folder]
    if args.folders and any(named):
        raise ValueError("expected folders of clips, or a model to sample from, got both")
    if args.folders:
        return list(args.folders)
    if not any(named) or not args.prompts:
        raise ValueError(
            "expected folders of clips, or a model and its prompts: vidrl label base/ ours/, or "
            "vidrl label --model DIR --prompts FILE"
        )
    return [str(_sampled(args))]


def _sampled(args: argparse.Namespace) -> Path:
    """Sample clips of each prompt as `vidrl sample` does, unless the folder has them already."""
    from vidrl.feedback.store_tables import file_of

    from . import sample

    file = file_of(args.store)
    out = Path(args.out or (f"{file.with_suffix('')}.clips" if file else "vidrl_label.clips"))
    if (out / "prompts.csv").is_file():
        print(f"vidrl: the clips of {out} are shown; name another --out to sample new ones")
        return out
    again = vars(args) | dict.fromkeys(BACKBONE_OPTIONS)
    again |= {"prompt": None, "out": str(out), "overwrite": False}
    sample._sample(argparse.Namespace(**again))
    return out


def _desk(args: argparse.Namespace, folders: list[str]) -> Desk:
    """Return the desk of the clips, the questions and the store that the arguments name."""
    from dataclasses import replace

    from vidrl.feedback.labelling import clip_sets, gold
    from vidrl.feedback.labelling.desk import Desk
    from vidrl.feedback.labelling.frames import FrameFolder
    from vidrl.feedback.store import Store

    clips = clip_sets.read(folders, args.mode)
    for note in clips.notes:
        print(f"vidrl: note: {note}", file=sys.stderr)
    if args.gold and args.mode != "pairs":
        raise ValueError(f"expected --mode pairs with --gold, got --mode {args.mode}")
    known = gold.read(args.gold) if args.gold else []
    questions = _questionnaire(args)
    selection = _selection(args, clips, tuple(range(len(known))))
    store = Store(args.store, questions)  # last: options that are refused leave no file
    selection = replace(selection, seed=store.made)
    folder = f"{store.file}.frames" if store.file else ".vidrl_frames"
    return Desk(
        store,
        clips,
        FrameFolder(folder),
        selection,
        known,
        goal=args.count,
        note=_print_note,
        until=args.until or 0,
    )


def _questionnaire(args: argparse.Namespace) -> Questionnaire:
    """Return what raters are asked, by the options."""
    from dataclasses import replace

    from vidrl.feedback import questionnaire
    from vidrl.feedback.labelling import frames

    if args.scale and args.mode != "points":
        raise ValueError(f"expected --mode points with --scale, got --mode {args.mode}")
    if args.scale and args.axes:
        raise ValueError("expected --scale or --axes, got both: the axes of --axes have own scales")
    settings = {"frames": frames.VERSION, "largest_side": frames.LARGEST_SIDE}
    settings |= {"rank": args.rank} if args.mode == "ranking" else {}
    found = (
        questionnaire.read(args.axes, args.mode)
        if args.axes
        else questionnaire.Questionnaire(args.mode, questionnaire.SCALES.get(args.scale, ()))
    )
    shows = found.shows_prompt and not args.hide_prompt
    return replace(found, shows_prompt=shows, settings=settings)


def _selection(args: argparse.Namespace, clips: ClipSet, gold: tuple[int, ...]) -> Selection:
    """Return the selection of items of a set of clips, without its seed."""
    from vidrl.feedback.labelling import clip_sets
    from vidrl.feedback.selection import Selection, Shares

    shares = Shares(args.random, args.repeats, args.gold_share if gold else 0.0)
    groups = clip_sets.items(clips, args.mode, args.rank)
    unsure = _disagreement(args, clips)
    return Selection(groups, shares, gold, "", args.mode == "pairs", unsure)


def _disagreement(args: argparse.Namespace, clips: ClipSet) -> Callable[[tuple[int, ...]], float]:
    """Return how unsure the reward of --reward is about a pair; 0 without a reward."""
    if not args.fitted:
        return lambda item: 0.0
    if args.mode != "pairs":
        raise ValueError(f"expected --mode pairs with --reward, got --mode {args.mode}")
    from vidrl import plugin
    from vidrl.feedback.labelling import taste
    from vidrl.lookup.grammar import counted

    print(f"vidrl: scoring {counted(len(clips.clips), 'clips')} by {args.fitted}", flush=True)
    return taste.of_reward(plugin.load("rewards", "fitted", model=args.fitted), clips.clips)


def _print_note(text: str) -> None:
    print(f"vidrl: {text}", file=sys.stderr, flush=True)


def _print_start(args: argparse.Namespace, desk: Desk, link: str) -> None:
    """Print what is shown, what --public means, and the link; open the link where asked."""
    from vidrl.feedback.labelling import serve
    from vidrl.lookup.grammar import counted
    from vidrl.lookup.passwords import hidden

    groups = desk.selection.groups
    shown = {"pairs": "pairs", "points": "clips", "ranking": "rankings"}[args.mode]
    items = counted(sum(map(len, groups)), shown)
    print(f"{items} of {counted(len(desk.clips.clips), 'clips')}, answers in {hidden(args.store)}")
    largest = max((len(item) for group in groups for item in group), default=0)
    if args.mode == "ranking" and largest < args.rank:
        found = counted(largest, "clips")
        print(f"the largest ranking has {found} of --rank {args.rank}: no prompt has more")
    if args.public:
        print(serve.PUBLIC)
    print(f"open {link}", flush=True)
    if args.open:
        import webbrowser

        webbrowser.open(link)


def _print_end(args: argparse.Namespace, desk: Desk) -> None:
    """Print how many answers the store holds, and what to do with them."""
    from vidrl.lookup.grammar import counted

    answers = [one for one in desk.store.answers() if not one.skipped]
    raters = counted(len({one.rater for one in answers}), "raters")
    print(f"{counted(len(answers), 'answers')} of {raters} in {desk.store.name}")
    desk.store.close()
