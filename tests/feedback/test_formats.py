"""The formats of files of judgments: contracts of every format, round trips, real layouts."""

import json
import random
from pathlib import Path

import pytest

from vidrl import plugin
from vidrl.data.prompt import Prompt
from vidrl.feedback import files
from vidrl.feedback.formats._clips import Clips
from vidrl.feedback.formats.base import HOLDABLE
from vidrl.feedback.held import reduced
from vidrl.feedback.judgments import Choice, Fault, Judgments, Points, Ranking
from vidrl.rewards._files.tables import BadTable

NAMES = plugin.names("feedback.formats")
KINDS = ("choices", "points", "rankings", "faults")


def table(path, *rows):
    """Write rows to a file by its suffix."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else text)
    return path


def counted(judgments):
    """What judgments say, without their order."""
    return {kind: sorted(map(repr, getattr(judgments, kind))) for kind in KINDS}


def judgments(folder, seed):
    """Random judgments of every kind, with odd texts, several raters, ties and repetitions."""
    draw = random.Random(seed)
    clips = [str(folder / name) for name in ("a.mp4", "b.mp4", "sub/c d.mp4", "é.mp4")]
    prompts = ["a dog", 'two\nlines, "quoted"', "=1+1", " led by a blank", ""]
    raters = ["", "ann", "7"]

    def about(aspects=("overall", "VQ", "text match")):
        return draw.choice(aspects), draw.choice(prompts), draw.choice(raters)

    def choice():
        answer, (first, second) = draw.choice([1, -1, 0]), draw.sample(clips, 2)
        bad = answer == 0 and draw.random() < 0.5
        labels = draw.choice([(), (), (1, 0, -1)])
        return Choice(first, second, answer, *about(), labels, bad, draw.choice([1.0, 1.0, 2.5]))

    def points():
        low, high = draw.choice([(1.0, 4.0), (1.0, 7.0), (0.0, 100.0)])
        aspects = ("VQ", "visual quality", "overall_rating", "fidelity_rating")
        return Points(draw.choice(clips), draw.choice([low, high, 2.0]), low, high, *about(aspects))

    def ranking():
        return Ranking(tuple(draw.sample(clips, 3)), (1, 2, 2), *about())

    def fault():
        return Fault(draw.choice(clips), 0.25, 1.5, draw.choice([(), ("flicker",)]), *about()[1:])

    made = ([make() for _ in range(12)] for make in (choice, points, ranking, fault))
    return Judgments(*made, notes=["4 answers were blank"])


# --- the contract of every format


@pytest.mark.parametrize("name", NAMES)
def test_a_format_says_what_it_is(name):
    form = files.named(name)
    assert form.title and form.source and form.example and form.holds <= HOLDABLE
    assert form.holds & {"choices", "points", "rankings"}
    assert type(form).__doc__ and type(form).__doc__.split()[0] in ("Reads", "A")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_format_is_recognised_and_read(name, tmp_path):
    form = files.named(name)
    found = files.read(table(tmp_path / "example.json", form.example))
    assert found.format == name
    assert any(getattr(found.judgments, kind) for kind in KINDS) or "rankings" in form.holds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_a_round_trip_keeps_all_that_a_format_holds(name, seed, suffix, tmp_path):
    if suffix not in files.named(name).suffixes:
        return
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    given = judgments(tmp_path, seed)
    aspect = "" if "aspects" in files.named(name).holds or files.named(name).scales else "overall"
    expected, lost = reduced(given, files.named(name), aspect)
    path = tmp_path / f"written{suffix}"
    if not any(getattr(expected, kind) for kind in KINDS):
        return
    written = files.write(given, path, name, aspect)
    assert written.lost == lost
    assert bool(lost) == (name != "vidrl")
    found = files.read(path, name).judgments
    assert counted(found) == counted(expected)
    if name == "vidrl":
        assert found == given, "its own format loses nothing, not even the order"


def test_each_loss_is_counted():
    given = Judgments(
        [
            Choice("a", "b", 1, prompt="p", rater="x"),
            Choice("b", "a", -1, prompt="p", rater="y"),
            Choice("a", "c", 0, prompt="p", both_bad=True),
            Choice("a", "d", -1, prompt="p", labels=(1, -1), weight=2),
            Choice("a", "b", 1, "VQ", "p"),
        ],
        [Points("a", 3, 1, 5, prompt="p"), Points("b", 1, 1, 5, prompt="p")],
        [Ranking(("a", "b", "c"), (1, 2, 3), prompt="q")],
        [Fault("a", 0, 1)],
    )
    kept, lost = reduced(given, files.named("trl"), "overall")
    assert lost == [
        "1 judgment of other aspects than overall is left out",
        "1 ranking of clips is read as 3 choices",
        "2 points of clips are read as 1 choice between clips of one prompt",
        "1 fault is left out",
        "2 names of raters are left out",
        "2 answers are joined with others on a pair",
        "the weights of choices are left out",
        "1 tie is left out",
    ]
    assert [(c.first, c.second, c.choice, c.labels) for c in kept.choices] == [
        ("a", "b", 1, ()),
        ("d", "a", 1, (-1, 1)),
        ("a", "b", 1, ()),
        ("a", "c", 1, ()),
        ("b", "c", 1, ()),
    ]
    assert not kept.points and not kept.rankings and not kept.faults


def test_shares_are_weights_that_sum_to_one():
    votes = [Choice("a", "b", 1, prompt="p")] * 2 + [Choice("b", "a", 1, prompt="p")]
    votes.append(Choice("a", "b", 0, prompt="p"))
    kept, lost = reduced(Judgments(votes), files.named("rapidata"))
    assert [(c.choice, c.weight) for c in kept.choices] == [(1, 0.625), (-1, 0.375)]
    assert lost[-1] == "1 tie counts half for each clip"


def test_references_of_prompts_travel_where_the_format_has_a_place(tmp_path):
    asked = Prompt("a cat", {"image": str(tmp_path / "cat.png"), "negative_prompt": "blur"})
    given = Judgments([Choice(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), 1, prompt=asked)])
    for name in ("vidrl", "trl"):
        files.write(given, tmp_path / f"{name}.jsonl", name)
        assert files.read(tmp_path / f"{name}.jsonl").judgments.choices == given.choices
    written = files.write(given, tmp_path / "v2.jsonl", "flow_factory")
    assert written.lost == ["1 reference is left out (negative_prompt)"]
    (found,) = files.read(tmp_path / "v2.jsonl").judgments.choices
    assert found.prompt == Prompt("a cat", {"image": str(tmp_path / "cat.png")})
    written = files.write(given, tmp_path / "a.csv", "gsb")
    assert written.lost == ["2 references are left out (image, negative_prompt)"]


# --- the layouts of others, as they are published


def short(found):
    return [
        (c.first.rsplit("/", 1)[-1], c.second.rsplit("/", 1)[-1], c.choice, c.aspect, c.weight)
        for c in found.judgments.choices
    ]


def test_rapidata(tmp_path):
    row = {
        "prompt": "a cat",
        "video1": "https://hf.co/datasets/Rapidata/x/resolve/main/Videos/sora/1.mp4",
        "video2": "https://hf.co/datasets/Rapidata/x/resolve/main/Videos/wan/2.mp4",
        "weighted_results1_Preference": 0.75,
        "weighted_results2_Preference": 0.25,
        "detailedResults_Preference": [{"votedFor": "1.mp4", "userDetails": {"country": "DE"}}],
        "weighted_results1_Coherence": 1.0,
        "weighted_results2_Coherence": 0.0,
        "weighted_results1_Alignment": None,
        "weighted_results2_Alignment": None,
    }
    (tmp_path / "videos" / "wan").mkdir(parents=True)
    (tmp_path / "videos" / "wan" / "2.mp4").write_bytes(b"")
    found = files.read(table(tmp_path / "data.jsonl", row))
    assert found.format == "rapidata"
    assert short(found) == [
        ("1.mp4", "2.mp4", 1, "Preference", 0.75),
        ("1.mp4", "2.mp4", -1, "Preference", 0.25),
        ("1.mp4", "2.mp4", 1, "Coherence", 1.0),
    ]
    assert found.judgments.choices[0].second == str(tmp_path / "videos/wan/2.mp4")
    assert found.judgments.notes == ["1 answer is blank in the file"]
    row |= {"file_name1": "sora_1.mp4", "file_name2": "wan_2.mp4"}
    assert short(files.read(table(tmp_path / "data.jsonl", row)))[0][:2] == ("sora_1.mp4", "2.mp4")


def test_pickapic_with_embedded_pictures(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [
        {
            "caption": "a cat",
            "jpg_0": b"one",
            "jpg_1": b"two",
            "image_0_uid": "u0",
            "image_1_uid": "u1",
            "image_0_url": "https://text-to-image-human-preferences.s3.amazonaws.com/images/u0.png",
            "image_1_url": "https://text-to-image-human-preferences.s3.amazonaws.com/images/u1.png",
            "label_0": label,
            "label_1": 1 - label,
            "has_label": has,
            "user_id": 5,
        }
        for label, has in ((1.0, True), (0.5, True), (0.0, True), (0.0, False))
    ]
    path = tmp_path / "pick.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    left_out = files.read(path).judgments.notes
    assert "6 embedded clips are left out: name a folder for them by --media" in left_out
    found = files.read(path, media=tmp_path / "media")
    assert found.format == "pickapic"
    assert [one.choice for one in found.judgments.choices] == [1, 0, -1]
    first = found.judgments.choices[0]
    assert (first.first, first.rater) == (str(tmp_path / "media/u0.jpg"), "5")
    assert (tmp_path / "media/u0.jpg").read_bytes() == b"one"
    assert found.judgments.notes == ["1 row has no label"]
    assert files.read(path).judgments == found.judgments, "found by uid at any depth"


def test_imagereward(tmp_path):
    rows = [
        {
            "image_path": f"images/{n}.webp",
            "prompt_id": prompt,
            "prompt": f"prompt {prompt}",
            "classification": "people",
            "image_amount_in_total": 3,
            "rank": rank,
            "overall_rating": 8 - n,
            "image_text_alignment_rating": 5,
            "fidelity_rating": 0,
        }
        for n, prompt, rank in ((1, "x", 2), (2, "x", 1), (3, "x", 2), (4, "y", 1))
    ]
    found = files.read(table(tmp_path / "validation.json", *rows)).judgments
    (ranking,) = found.rankings
    assert ranking.places == (2, 1, 2) and ranking.prompt == "prompt x"
    assert ranking.clips[1] == str(tmp_path / "images/2.webp")
    assert [p.points for p in found.points if p.aspect == "overall_rating"] == [7, 6, 5, 4]
    assert {(p.low, p.high) for p in found.points} == {(1.0, 7.0)}
    assert "fidelity_rating" not in found.aspects
    assert found.notes == ["1 prompt has one ranked picture, and so no ranking"]


def test_flow_factory(tmp_path):
    row = {
        "schema_version": 2,
        "input": {
            "prompt": "a boat",
            "media": [
                {"type": "image", "path": "first.png"},
                {"type": "image", "path": "end.png", "slot": "last_frame"},
                {"type": "audio", "path": "a.wav", "sample_rate": 48000},
            ],
        },
        "supervision": {
            "type": "preference",
            "chosen": {"media": [{"type": "video", "path": "pairs/c.mp4", "fps": 24.0}]},
            "rejected": {"media": [{"type": "video", "path": "pairs/r.mp4", "fps": 24.0}]},
        },
        "metadata": {"annotator": "example"},
    }
    target = {"media": [{"type": "image", "path": "t.png"}]}
    other = row | {"supervision": {"type": "demonstration", "target": target}}
    found = files.read(table(tmp_path / "train.jsonl", row, other)).judgments
    (choice,) = found.choices
    assert choice.first == str(tmp_path / "pairs/c.mp4") and choice.choice == 1
    pictures = {"image": str(tmp_path / "first.png"), "last_image": str(tmp_path / "end.png")}
    assert choice.prompt == Prompt("a boat", pictures)
    assert found.notes == [
        "1 condition audio is not read",
        "1 record is of the type 'demonstration'",
    ]


def test_label_studio(tmp_path):
    def result(kind, value, name="pw"):
        return {"from_name": name, "to_name": "video1,video2", "type": kind, "value": value}

    task = {
        "id": 9,
        "data": {"text": "a cat", "video1": "/data/a.mp4", "video2": "/data/b.mp4"},
        "annotations": [
            {"completed_by": 3, "result": [result("pairwise", {"selected": "right"})]},
            {
                "completed_by": {"id": 4, "email": "x@y.z"},
                "result": [
                    result("choices", {"choices": ["Tie"]}, "motion"),
                    result("rating", {"rating": 4}, "stars") | {"to_name": "video2"},
                    result("textarea", {"text": ["why"]}),
                ],
            },
            {"was_cancelled": True, "result": []},
        ],
    }
    found = files.read(table(tmp_path / "export.json", task)).judgments
    first, second = found.choices
    assert (first.choice, first.aspect, first.rater, first.prompt) == (-1, "overall", "3", "a cat")
    assert (second.choice, second.aspect, second.rater) == (0, "motion", "x@y.z")
    (stars,) = found.points
    assert (stars.clip, stars.points, stars.low, stars.high) == ("/data/b.mp4", 4, 1, 5)
    assert found.notes == [
        "1 result of the type 'textarea' is not read",
        "1 annotation was cancelled",
    ]


def test_gsb_is_videoaligns_table_for_training(tmp_path):
    path = tmp_path / "example.csv"
    path.write_text(
        "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B\n"
        "./videos/1_A.mp4,./videos/1_B.mp4,a cat,A,same,B,24.0,121,24.0,121\n"
    )
    found = files.read(path)
    assert found.format == "gsb" and [c.choice for c in found.judgments.choices] == [1, 0, -1]
    assert found.judgments.choices[0].first == str(tmp_path / "videos/1_A.mp4")


def test_videoscore2_is_on_five_points(tmp_path):
    said = (
        "<think>Resolution: good.</think>\n\n(1) visual quality: 3\n(2) text-to-video alignment: 4\n"
        "(3) physical/common-sense consistency: 2\n"
    )
    asked = (
        "Here we provide an AI video generated by text-to-video models and its text prompt: \n"
        "A kitten.\n\nBased on the video content ..."
    )
    row = {
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}],
        "videos": ["videos/001510_u.mp4"],
    }
    found = files.read(table(tmp_path / "sft.json", row)).judgments
    assert [(p.aspect, p.points, p.low, p.high) for p in found.points] == [
        ("visual quality", 3, 1, 5),
        ("text-to-video alignment", 4, 1, 5),
        ("physical/common-sense consistency", 2, 1, 5),
    ]
    assert found.points[0].prompt == "A kitten."
    assert found.points[0].clip == str(tmp_path / "videos/001510_u.mp4")


# --- maps and wrong files


def test_a_map_names_the_columns_of_a_file(tmp_path):
    path = table(tmp_path / "own.jsonl", {"Caption": "a cat", "win": "a.mp4", "lose": "b.mp4"})
    names = {"prompt": "caption", "chosen": "win", "rejected": "lose"}
    (choice,) = files.read(path, columns=names).judgments.choices
    assert choice.prompt == "a cat" and choice.first == str(tmp_path / "a.mp4")
    with pytest.raises(BadTable, match="no column 'wim': did you mean 'win'"):
        files.read(path, columns=names | {"chosen": "wim"})


def test_a_wrong_file_gets_the_formats_the_column_and_the_nearest_name(tmp_path):
    path = table(tmp_path / "w.jsonl", {"prompt": "a", "chosen": "a.mp4", "rejectd": "b.mp4"})
    with pytest.raises(BadTable, match="expected one of these layouts") as error:
        files.read(path)
    said = str(error.value)
    assert all(name in said for name in NAMES)
    assert "The nearest is trl, with no column rejected" in said
    assert said.endswith("--map rejected=rejectd")
    with pytest.raises(BadTable, match="expected the format gsb, with no column path_A and"):
        files.read(path, "gsb")
    with pytest.raises(plugin.UnknownName, match="did you mean 'rapidata'"):
        files.read(path, "rapidatta")


@pytest.mark.parametrize(
    "row, told",
    [
        ({"chosen": "../out.mp4"}, "line 1: expected a path inside the folder of the table"),
        ({"chosen": "https://x.y/.."}, "line 1: expected a path inside the folder"),
        ({"chosen": "b.mp4"}, "line 1: expected two clips"),
        ({"chosen": ""}, "line 1: expected chosen to be the path of a clip"),
        ({"prompt": None}, "line 1: expected prompt to be a prompt"),
        ({"labels": [2]}, "line 1: expected labels to be a list of 1"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path, row, told):
    good = {"prompt": "a", "chosen": "a.mp4", "rejected": "b.mp4"}
    with pytest.raises(BadTable, match=told):
        files.read(table(tmp_path / "w.jsonl", good | row))


def test_two_columns_of_one_name_are_refused(tmp_path):
    row = {"path_A": "a.mp4", "path_B": "b.mp4", "VQ": "A", "vq": "B"}
    with pytest.raises(BadTable, match="expected one column 'vq', got 'VQ' and 'vq'"):
        files.read(table(tmp_path / "w.jsonl", row))
    both = Judgments([Choice("a", "b", 1, "VQ"), Choice("a", "b", 1, "vq")])
    with pytest.raises(ValueError, match="write the format vidrl"):
        files.write(both, tmp_path / "w.csv", "gsb")


def test_paths_that_are_no_file_are_named(tmp_path):
    with pytest.raises(BadTable, match="got the folder"):
        files.read(tmp_path)
    with pytest.raises(
        BadTable, match=r"^expected a file of judgments at [^ ]*, found nothing there$"
    ):
        files.read(tmp_path / "nope.csv")


def test_a_ranking_whose_choices_are_all_ties_is_not_said_to_be_written(tmp_path):
    given = Judgments(rankings=[Ranking(("a", "b"), (1, 1), prompt="x")])
    said = "found none: 1 ranking of clips is read as 1 choice; 1 tie is left out"
    with pytest.raises(ValueError, match=said):
        files.write(given, tmp_path / "w.jsonl", "trl")


def test_a_file_of_another_suffix_is_refused_before_it_is_written(tmp_path):
    given = Judgments([Choice("a", "b", 1)])
    with pytest.raises(ValueError, match="ending in .jsonl for the format flow_factory"):
        files.write(given, tmp_path / "w.csv", "flow_factory")
    with pytest.raises(ValueError, match="found none: 1 fault is left out"):
        files.write(Judgments(faults=[Fault("a", 0, 1)]), tmp_path / "w.csv", "trl")
    two = Judgments([Choice("a", "b", 1, "VQ"), Choice("a", "b", 1, "MQ")])
    with pytest.raises(ValueError, match="got VQ, MQ: name one by --aspect"):
        files.write(two, tmp_path / "w.csv", "trl")
    assert not list(tmp_path.iterdir())


def test_only_addresses_and_ids_are_searched_by_name(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").write_bytes(b"")
    row = {"prompt": "p", "chosen": "a.mp4", "rejected": "https://x.y/z/a.mp4"}
    found = files.read(table(tmp_path / "w.jsonl", row)).judgments
    (choice,) = found.choices
    assert choice.first == str(tmp_path / "a.mp4"), "a path is where it says, or nowhere"
    assert choice.second == str(tmp_path / "one/a.mp4")
    assert found.notes == [
        f"1 name belongs to several files below {tmp_path}, the first counts: a.mp4"
    ]


def test_a_store_is_read_as_a_file_is(tmp_path):
    pytest.importorskip("sqlalchemy")
    from vidrl.feedback.questionnaire import Questionnaire
    from vidrl.feedback.store import Answer, Shown, Store

    store = Store(tmp_path / "taste.db", Questionnaire())
    shown = (Shown(str(tmp_path / "a.mp4")), Shown(str(tmp_path / "b.mp4")))
    store.add(Answer("Ann", shown, {"overall": "B"}, prompt="a dog"))
    store.add(Answer("Ann", shown, {"overall": "A"}, prompt="a dog", reason="repeat"))
    store.close()
    found = files.read(tmp_path / "taste.db")
    assert found.format == "store" and found.places == ["choice 1"]
    files.write(found.judgments, tmp_path / "pairs.jsonl", "trl")
    (choice,) = files.read(tmp_path / "pairs.jsonl").judgments.choices
    assert (choice.first, choice.second) == (str(tmp_path / "b.mp4"), str(tmp_path / "a.mp4"))
    assert found.judgments.notes == ["1 answer of reason repeat is left out"]


@pytest.mark.parametrize("name", ["..", "x/..", "../../evil.jpg"])
def test_an_embedded_picture_stays_in_the_folder_for_media(name, tmp_path):
    clips = Clips(tmp_path, tmp_path / "media")
    if name.endswith(".."):
        with pytest.raises(ValueError, match="expected the name of an embedded clip"):
            clips.embedded(b"one", name)
    else:
        assert clips.embedded(b"one", name) == str(tmp_path / "media/evil.jpg")


def test_embedded_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    for _ in range(2):  # the second time nothing new is written
        clips = Clips(tmp_path, tmp_path / "media")
        paths = [clips.embedded(content, "x/a.jpg") for content in (b"one", b"two", b"one")]
        assert [Path(path).read_bytes() for path in paths] == [b"one", b"two", b"one"]
        assert paths[0] == paths[2] == str(tmp_path / "media/a.jpg")
        assert len(list((tmp_path / "media").iterdir())) == 2
    assert not list(tmp_path.parent.glob("*.jpg"))


ODD = [None, "", 0, 1.5, "x", [], {}, [1], [[]], {"a": 1}, True]
CELLS = {name: [form.example] for name, form in files.formats().items()}
CELLS["vidrl"] += [
    {"clips": ["a.mp4", "b.mp4"], "places": [1, 2], "prompt": "a dog"},
    {"clip": "a.mp4", "points": 1, "low": 0, "high": 2, "prompt": "a dog"},
    {"clip": "a.mp4", "begin": 0, "end": 1, "tags": ["flicker"]},
]
CELLS["flow_factory"] += [CELLS["flow_factory"][0] | {"metadata": {"labels": [1, 0]}}]


def places(cell):
    """The places of all values inside a cell, and of the cell itself."""
    yield ()
    inside = enumerate(cell) if isinstance(cell, list) else ()
    for key, value in cell.items() if isinstance(cell, dict) else inside:
        yield from ((key, *place) for place in places(value))


def changed(cell, place, value):
    cell = json.loads(json.dumps(cell))
    found = cell
    for key in place[:-1]:
        found = found[key]
    found[place[-1]] = value
    return cell


@pytest.mark.parametrize("name", CELLS)
def test_a_value_of_another_type_is_read_or_refused_with_words(name, tmp_path):
    """A value may be anything at any depth; a crash would print a traceback and no cure."""
    file = tmp_path / "judgments.json"
    for row in CELLS[name]:
        for place in [place for place in places(row) if place]:
            for value in ODD:
                file.write_text(json.dumps([changed(row, place, value)]))
                try:
                    files.read(file, name)
                except ValueError as error:
                    assert "expected" in str(error) or "name" in str(error)
