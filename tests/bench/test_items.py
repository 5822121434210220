"""What is measured, with which prompt: folders, tables, names like VBench's, references;
nothing dropped silently."""

import json
from pathlib import Path

import pytest

from vidrl.bench import items, manifest
from vidrl.bench.items import Item, NoClips
from vidrl.bench.manifest import BadManifest

NAUGHTY = [
    'say "hi", <b>&amp;</b>',
    "a; rm -rf ~ `$(x)` $HOME",
    "кот 猫 🐈",
    "two\nlines",
    " spaced  out ",
    "=1+1",
    "\\",
]


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def names(found):
    return [item.path.name for item in found.items]


# --- folders --------------------------------------------------------------------------


def test_videos_of_a_folder_at_any_depth_in_order_without_what_is_hidden(tmp_path):
    touch(tmp_path, "b.MP4", "a/c.webm", "d.txt", ".hidden/e.mp4", ".f.mp4", "thumb.png")
    found = items.find([tmp_path])
    assert names(found) == ["c.webm", "b.MP4"]
    assert found.notes == [
        f"left out: 1 files of {tmp_path} that are no clips (.png), the first is thumb.png"
    ]


def test_images_where_there_is_no_video(tmp_path):
    assert names(items.find([touch(tmp_path, "b.png", "a.JPG", "c.txt")])) == ["a.JPG", "b.png"]


def test_numbered_pictures_are_one_clip_and_stills_where_one_frame_is_asked_for(tmp_path):
    folder = touch(tmp_path / "film", "f_1.png", "f_2.png", "f_10.png", "prompts.txt")
    assert names(items.find([folder])) == names(items.find([tmp_path])) == ["film"]
    assert names(items.find([folder], stills=True)) == ["f_1.png", "f_10.png", "f_2.png"]
    touch(tmp_path, "other/a.png", "b.mp4")
    assert names(items.find([tmp_path])) == ["b.mp4", "film"]


@pytest.mark.parametrize(
    "inside, said", [((), "found none"), (("a.txt", "b.PY"), r"among 2 files \(.py, .txt\)")]
)
def test_a_folder_without_clips_says_what_it_holds(tmp_path, inside, said):
    with pytest.raises(NoClips, match=said):
        items.find([touch(tmp_path, *inside)])
    with pytest.raises(NoClips, match="found nothing"):
        items.find([tmp_path / "nowhere"])


# --- VBench's names -------------------------------------------------------------------


def test_names_like_vbenchs_give_prompt_and_seed(tmp_path):
    found = items.find(
        [touch(tmp_path, "a dog runs-0.mp4", "a dog runs-3.mp4", "two well-known men-10.mp4")]
    )
    assert [(item.prompt, item.seed) for item in found.items] == [
        ("a dog runs", 0),
        ("a dog runs", 3),
        ("two well-known men", 10),
    ]
    assert any("names like VBench's" in note for note in found.notes)


@pytest.mark.parametrize(
    "inside",
    [
        ["clip-0.mp4", "clip-1.mp4"],  # numbers, no prompt
        ["a dog-0.mp4", "b.mp4", "c.mp4"],  # most are something else
        ["a dog.mp4", "a cat.mp4"],
    ],
)
def test_other_names_are_no_prompts(tmp_path, inside):
    found = items.find([touch(tmp_path, *inside)])
    assert {(item.prompt, item.seed) for item in found.items} == {("", None)} and found.notes == []


def test_a_few_other_names_among_vbenchs_are_told(tmp_path):
    found = items.find([touch(tmp_path, *(f"a dog runs-{i}.mp4" for i in range(9)), "odd.mp4")])
    assert [item.prompt for item in found.items][-1] == ""
    assert any("1 of 10 names" in note and "odd.mp4" in note for note in found.notes)


def test_vbenchs_list_says_which_dims_are_measured_on_a_prompt(tmp_path):
    listed = tmp_path / "VBench_full_info.json"
    listed.write_text(json.dumps([{"prompt_en": "a dog runs", "dimension": ["dynamic_degree"]}]))
    found = items.find([touch(tmp_path / "v", "a dog runs-0.mp4", "a cat sits-0.mp4")], listed)
    assert [item.meta for item in found.items] == [{}, {"vbench": ("dynamic_degree",)}]
    assert any(
        "1 of 2 clips have a prompt that VBench_full_info.json does not list" in note
        for note in found.notes
    )
    listed.write_text("[{}]")
    with pytest.raises(BadManifest, match="prompt_en and dimension"):
        items.find([tmp_path / "v"], listed)


# --- tables ---------------------------------------------------------------------------


def test_what_is_written_is_read_back_whatever_the_prompt(tmp_path):
    rows = [{"path": f"{i}.mp4", "prompt": prompt, "seed": i} for i, prompt in enumerate(NAUGHTY)]
    manifest.write(tmp_path / "prompts.csv", rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("prompts.csv", "rows.jsonl"):
        assert [(row.path, row.prompt, row.seed) for row in manifest.read(tmp_path / name)] == [
            (f"{i}.mp4", prompt, i) for i, prompt in enumerate(NAUGHTY)
        ]


def test_a_table_in_the_folder_is_used_and_said(tmp_path):
    touch(tmp_path, "0.mp4", "1.mp4")
    manifest.write(tmp_path / "prompts.csv", [{"path": "0.mp4", "prompt": "a dog", "seed": 7}])
    found = items.find([tmp_path])
    assert found.items == [Item(tmp_path / "0.mp4", "a dog", 7), Item(tmp_path / "1.mp4")]
    assert (
        "prompts are from" in found.notes[0]
        and "1 of 2 files have no row in prompts.csv" in found.notes[1]
    )


def test_all_columns_of_a_manifest(tmp_path):
    touch(tmp_path, "v/a.mp4", "i/a.png")
    table = tmp_path / "t.tsv"
    table.write_text(
        "path\tprompt\tseed\treference\tcamera\nv/a.mp4\ta dog\t3.0\ti/a.png\tpan\nv/b.mp4\ta "
        "cat\t\t\t\n"
    )
    found = items.find([], table)
    assert found.items == [
        Item(tmp_path / "v/a.mp4", "a dog", 3, tmp_path / "i/a.png", {"camera": "pan"})
    ]
    assert found.skipped == [
        {
            "path": str(tmp_path / "v/b.mp4"),
            "prompt": "a cat",
            "seed": None,
            "why": "missing: t.tsv, line 3 names it, but the file does not exist",
        }
    ]


def test_one_table_serves_several_folders_of_the_same_names(tmp_path):
    table = tmp_path / "prompts.csv"
    manifest.write(
        table, [{"path": f"{i}.mp4", "prompt": f"prompt {i}", "seed": i} for i in range(3)]
    )
    full, lacking = (
        touch(tmp_path / "a", "0.mp4", "1.mp4", "2.mp4"),
        touch(tmp_path / "b", "0.mp4", "1.mp4"),
    )
    assert [item.prompt for item in items.find([full], table).items] == [
        "prompt 0",
        "prompt 1",
        "prompt 2",
    ]
    found = items.find([lacking], table)
    assert names(found) == ["0.mp4", "1.mp4"] and [row["path"] for row in found.skipped] == [
        str(lacking / "2.mp4")
    ]


def test_rows_of_another_folder_are_not_missing_from_this_one(tmp_path):
    touch(tmp_path, "a/0.mp4", "b/0.mp4")
    manifest.write(
        tmp_path / "t.csv", [{"path": f"{s}/{i}.mp4", "prompt": s} for s in "ab" for i in range(1)]
    )
    for name in "ab":
        found = items.find([tmp_path / name], tmp_path / "t.csv")
        assert [item.prompt for item in found.items] == [name]
        assert found.skipped == []


def test_a_row_of_a_missing_file_in_a_folder_is_skipped_there_alone(tmp_path):
    touch(tmp_path, "a/0.mp4", "b/0.mp4")
    manifest.write(tmp_path / "t.csv", [{"path": f"a/{i}.mp4", "prompt": "x"} for i in range(2)])
    (lost,) = items.find([tmp_path / "a"], tmp_path / "t.csv").skipped
    assert lost["path"] == str(tmp_path / "a/1.mp4")
    assert items.find([tmp_path / "b"], tmp_path / "t.csv").skipped == []


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("t.csv", "clips,prompt\na.mp4,x\n", "expected a column path"),
        ("t.csv", "path,prompt\n", "found none"),
        (
            "t.csv",
            "path,prompt\na.mp4,one, two\n",
            "line 2: expected 2 columns as in the first line, got 3",
        ),
        (
            "t.csv",
            "path,seed\na.mp4,x\n",
            "line 2: expected seed to be a whole number or nothing, got 'x'",
        ),
        ("t.csv", "path\na.mp4\n./a.mp4\n", "line 3: ./a.mp4 is on line 2 already"),
        ("t.jsonl", '{"path": 3}\n', "line 1: expected a path, got 3"),
        ("t.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("t.jsonl", "{\n", "line 1: expected one JSON object"),
        ("t.jsonl", '{"path": "a", "prompt": 3}\n', "expected prompt to be text, got 3"),
        ("t.yaml", "", "expected a table ending in .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_a_table_that_cannot_be_used_names_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadManifest, match=said):
        manifest.read(tmp_path / name)


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadManifest, match="UTF-8"):
        manifest.read(tmp_path / "t.csv")


def test_prompts_that_differ_by_case_or_blanks_are_told_apart_and_told(tmp_path):
    touch(tmp_path, "0.mp4", "1.mp4", "2.mp4")
    manifest.write(
        tmp_path / "prompts.csv",
        [
            {"path": f"{i}.mp4", "prompt": prompt}
            for i, prompt in enumerate(["A dog", "a  dog", "a cat"])
        ],
    )
    found = items.find([tmp_path])
    assert [item.prompt for item in found.items] == ["A dog", "a  dog", "a cat"]
    assert found.notes[-1].endswith("count as different: 'A dog', 'a  dog'")


# --- references -----------------------------------------------------------------------


def test_references_by_stem_or_prompt(tmp_path):
    touch(tmp_path / "i", "0.png", "a dog runs.jpg")
    touch(tmp_path / "v", "a dog runs-0.mp4", "a dog runs-1.mp4")
    assert {
        Path(str(item.reference)).name
        for item in items.find([tmp_path / "v"], None, tmp_path / "i").items
    } == {"a dog runs.jpg"}
    found = items.find([touch(tmp_path / "w", "0.mp4", "1.mp4")], None, tmp_path / "i")
    assert [item.reference for item in found.items] == [tmp_path / "i" / "0.png", None]
    assert "1 of 2 clips have no reference" in found.notes[-1]
    with pytest.raises(NoClips, match="reference images"):
        items.find([tmp_path / "v"], None, tmp_path / "nowhere")
