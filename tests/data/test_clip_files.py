"""Tables of clips and of pairs: usual layouts are read, and each wrong one is refused with
its place and cure."""

import csv
import json
from pathlib import Path

import pytest

from vidrl.data.clip_files import read_clips, read_pairs
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.store import Answer, Shown, Store
from vidrl.rewards._files.tables import BadTable
from vidrl.training import inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path.parent / "outside.mp4").write_bytes(b"")
    return tmp_path


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clip(name: object = "a.mp4", **changes: object) -> dict:
    return {"file_name": name, "prompt": "a dog"} | changes


def pair(**changes: object) -> dict:
    return {"prompt": "a dog", "chosen": "a.mp4", "rejected": "b.mp4"} | changes


def read(table) -> list[tuple]:
    return [
        (entry.prompt, *(one.name for one in entry.clips), entry.labels) for entry in table.entries
    ]


# --- clips


@pytest.mark.parametrize(
    "file, prompt",
    [
        ("file_name", "text"),
        ("video", "prompt"),
        ("video", "caption"),
        ("path", "prompt"),
        ("File Name", "Caption"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_folder_with_metadata_and_the_table_itself_are_one_set(folder, suffix, file, prompt):
    rows = [{file: "a.mp4", prompt: "a dog"}, {file: "b.mp4", prompt: "a cat, asleep"}]
    path = folder / f"metadata.{suffix}"
    if suffix == "jsonl":
        jsonl(path, *rows)
    elif suffix == "csv":
        with open(path, "w", newline="") as opened:
            sheet = csv.DictWriter(opened, rows[0])
            sheet.writeheader()
            sheet.writerows(rows)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = read_clips(folder)
    assert (
        read(found)
        == [("a dog", "a.mp4", ()), ("a cat, asleep", "b.mp4", ())]
        == read(read_clips(path))
    )
    assert found.prompts == ["a dog", "a cat, asleep"] and found.clips == [
        folder / "a.mp4",
        folder / "b.mp4",
    ]


def test_clips_that_are_not_there_and_rows_without_prompt_are_left_out_with_the_reason(folder):
    path = jsonl(
        folder / "clips.jsonl", clip(), clip("gone.mp4"), clip("b.mp4", prompt=""), clip("c.mp4")
    )
    found = read_clips(path)
    assert [entry.clips[0].name for entry in found.entries] == ["a.mp4", "c.mp4"]
    told = " ".join(found.left_out)
    assert len(found.left_out) == 2 and all(
        name in told for name in ("line 2", "line 3", "gone.mp4")
    )


def test_the_address_of_a_store_is_read_as_an_address(tmp_path):
    """A path would change the two slashes of an address to one."""
    pytest.importorskip("sqlalchemy")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    store = Store(tmp_path / "taste.db", Questionnaire())
    shown = tuple(Shown(str(tmp_path / name)) for name in ("a.mp4", "b.mp4"))
    store.add(Answer("Ann", shown, {"overall": "B"}, prompt="a dog"))
    (entry,) = read_pairs(f"sqlite:///{tmp_path}/taste.db").entries
    assert [clip.name for clip in entry.clips] == ["b.mp4", "a.mp4"]
    with pytest.raises(BadTable, match="PGPASSWORD") as error:
        read_pairs("postgresql://ann:secret@host/taste")
    assert "secret" not in str(error.value)
    recipe = {"data": {"pairs": f"sqlite:///{tmp_path}/taste.db"}}
    found = inputs.named(recipe, "data.pairs")
    assert sorted(file.name for file in found.values()) == ["a.mp4", "b.mp4"]


def test_an_absolute_path_may_lie_anywhere_and_a_relative_one_inside_alone(folder):
    outside = folder.parent / "outside.mp4"
    found = read_clips(jsonl(folder / "clips.jsonl", clip(str(outside)), clip("./x/../a.mp4")))
    assert found.clips == [outside, folder / "a.mp4"]
    for name in ("../outside.mp4", "x/../../outside.mp4"):
        with pytest.raises(BadTable, match="inside the folder of the table.*absolute path"):
            read_clips(jsonl(folder / "clips.jsonl", clip(), clip(name)))


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "found none"),
        ([{"prompt": "a dog"}], "column path.*got prompt"),
        ([{"file_name": "a.mp4"}], "column prompt.*no prompt in 1 row:"),
        ([clip("gone.mp4")], "nothing is left to learn from.*gone.mp4.*not there"),
        (
            [clip("a prompt in the wrong column " * 20 + ".mp4")],
            "nothing is left to learn from.*not there",
        ),
        # no file: reading would never end
        ([clip("/dev/zero")], "nothing is left to learn from.*/dev/zero.*not there"),
        ([clip(7)], "expected a path, got 7"),
        ([clip({"path": "a.mp4", "bytes": None})], "expected a path"),
        ([clip(prompt=7)], "expected prompt to be text, got 7"),
        ([clip("https://example.org/a.mp4")], "address.*download"),
        ([clip(), clip()], "a.mp4 is on line 1 already"),
        (["a.mp4"], "expected a JSON object"),
    ],
)
def test_a_wrong_table_of_clips_is_refused(folder, rows, told):
    with pytest.raises(BadTable, match=told):
        read_clips(jsonl(folder / "clips.jsonl", *rows))


def test_a_folder_without_its_table_or_with_two_is_refused_with_the_cure(folder):
    with pytest.raises(BadTable, match='write metadata.jsonl there.*"file_name"'):
        read_clips(folder)
    (folder / "train").mkdir()
    jsonl(folder / "train" / "metadata.jsonl", clip())
    with pytest.raises(BadTable, match=f"found none: name {folder / 'train'}"):
        read_clips(folder)
    jsonl(folder / "metadata.jsonl", clip())
    (folder / "metadata.csv").write_text("file_name,prompt\na.mp4,a dog\n")
    with pytest.raises(BadTable, match="metadata.jsonl and metadata.csv: name the one"):
        read_clips(folder)
    for name, told in (("gone", "expected a table"), ("a.mp4", "expected a table ending in")):
        with pytest.raises(BadTable, match=told):
            read_clips(folder / name)


# --- pairs


def test_pairs_have_the_labels_of_their_segments(folder):
    path = jsonl(
        folder / "pairs.jsonl",
        pair(labels=[1, 0, -1]),
        pair(chosen="c.mp4"),
        pair(rejected="gone.mp4"),
    )
    found = read_pairs(path)
    assert read(found) == [("a dog", "a.mp4", "b.mp4", (1, 0, -1)), ("a dog", "c.mp4", "b.mp4", ())]
    assert found.clips == [folder / "a.mp4", folder / "b.mp4", folder / "c.mp4"]
    assert (
        len(found.left_out) == 1
        and "gone.mp4" in found.left_out[0]
        and "line 3" in found.left_out[0]
    )


def test_pairs_of_a_parquet_file_are_those_of_the_lines(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [pair(segment_labels=[1.0, -1.0]), pair(chosen="c.mp4", segment_labels=None)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    assert read(read_pairs(folder / "pairs.parquet")) == read(
        read_pairs(jsonl(folder / "pairs.jsonl", *rows))
    )


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "found none: a row is"),
        (
            [{"prompt": "a dog", "chosen": "a.mp4"}],
            "(?s)expected one of these.*nearest is trl, with no column rejected among prompt, chosen",
        ),
        ([{"chosen": "a.mp4", "rejected": "b.mp4"}], "no column prompt among"),
        ([pair(prompt="")], "expected prompt to be a prompt, got ''"),
        ([pair(chosen=3)], "expected chosen to be the path of a clip, got '3'"),
        ([pair(rejected={"path": "b.mp4"})], "expected rejected to be the path of a clip"),
        ([pair(rejected="a.mp4")], "expected two clips.*leave the row out"),
        ([pair(chosen="../outside.mp4")], "inside the folder of the table"),
        ([pair(labels="1,1,-1")], "expected labels to be a list of 1"),
        ([pair(labels=[1, 2])], "expected labels to be a list of 1.*\\[1, 2\\]"),
        ([pair(labels=[True, False])], "expected labels to be a list of 1"),
        ([pair(labels=[])], "expected labels to be a list of 1"),
        ([pair(labels=[0.5])], "expected labels to be a list of 1"),
        ([pair(labels=[1, 1]), pair(labels=[1])], "line 2: expected 2 labels as on line 1, got 1"),
        (
            [pair(labels=[1], segment_labels=[1])],
            "one column of labels, got labels and segment_labels",
        ),
        ([pair(chosen="gone.mp4")], "nothing is left to learn from"),
    ],
)
def test_a_wrong_table_of_pairs_is_refused(folder, rows, told):
    with pytest.raises(BadTable, match=told):
        read_pairs(jsonl(folder / "pairs.jsonl", *rows))


def test_pairs_are_read_in_the_formats_of_others(folder):
    path = jsonl(
        folder / "answers.jsonl",
        {"path_a": "a.mp4", "path_b": "b.mp4", "prompt": "a dog", "choice": "b", "rater": "x"},
        {"path_a": "b.mp4", "path_b": "a.mp4", "prompt": "a dog", "choice": "a", "rater": "y"},
        {"path_a": "a.mp4", "path_b": "b.mp4", "prompt": "a dog", "choice": "a", "rater": "z"},
        {"path_a": "a.mp4", "path_b": "c.mp4", "prompt": "a dog", "choice": "tie"},
        {"path_a": "c.mp4", "path_b": "b.mp4", "prompt": "", "choice": "a"},
    )
    found = read_pairs(path)
    assert read(found) == [("a dog", "b.mp4", "a.mp4", ())]
    assert found.left_out == ["line 4: neither clip is preferred", "line 5: there is no prompt"]
    assert found.notes == ["2 answers are joined with others on a pair"]
    shares = {"weighted_results1_Preference": 0.4, "weighted_results2_Preference": 0.6}
    row = {"prompt": "a dog", "video1": "a.mp4", "video2": "https://x.y/videos/c.mp4"} | shares
    assert read(read_pairs(jsonl(path, row))) == [("a dog", "c.mp4", "a.mp4", ())]
    scores = [{"path": f"{n}.mp4", "prompt": "a dog", "smooth": i} for i, n in enumerate("abc")]
    assert [clips for _, *clips, _ in read(read_pairs(jsonl(path, *scores)))] == [
        ["b.mp4", "a.mp4"],
        ["c.mp4", "a.mp4"],
        ["c.mp4", "b.mp4"],
    ]
    table = {"path_A": "a.mp4", "path_B": "b.mp4", "prompt": "a dog", "VQ": "A", "MQ": "B"}
    with pytest.raises(
        BadTable, match="one called overall.*got VQ, MQ: choose one, as `vidrl pairs"
    ):
        read_pairs(jsonl(path, table))
    assert read(read_pairs(jsonl(path, table | {"Overall": "B"}))) == [
        ("a dog", "b.mp4", "a.mp4", ())
    ]


def test_a_folder_is_no_table_of_pairs_and_parquet_without_pyarrow_says_what_to_install(
    folder, monkeypatch
):
    with pytest.raises(BadTable, match="name the .jsonl or .parquet file"):
        read_pairs(folder)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (folder / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match="pip install .*tables.*, or save the table as"):
        read_pairs(folder / "pairs.parquet")
