"""One reader reads prompt tables for `score` and for `bench`, and refuses wrong tables."""

import json
import os
import sys
from pathlib import Path

import pytest

from vidrl.bench import items, manifest
from vidrl.rewards._files import manifests
from vidrl.rewards._files.tables import BadTable

TWO = {"0.mp4": "a dog", "1.mp4": "a cat"}
LIST = [{"path": "0.mp4", "prompt": "a dog"}, {"path": "1.mp4", "prompt": "a cat"}]
UNDERSTOOD = {
    "quotes": (
        "t.csv",
        'path,prompt\n0.mp4,"a dog, a cat"\n1.mp4,"he said ""hi"""\n',
        {"0.mp4": "a dog, a cat", "1.mp4": 'he said "hi"'},
    ),
    "mark of UTF-8": ("t.csv", "\ufeffpath,prompt\n0.mp4,a dog\n1.mp4,a cat\n", TWO),
    "UTF-16": ("t.csv", "path,prompt\n0.mp4,a dog\n1.mp4,a cat\n".encode("utf-16"), TWO),
    "UTF-16 of a big-endian machine": (
        "t.tsv",
        b"\xfe\xff" + "path\tprompt\n0.mp4\tcafé\n".encode("utf-16-be"),
        {"0.mp4": "café"},
    ),
    "UTF-32": ("t.csv", "path,prompt\n0.mp4,a dog\n1.mp4,a cat\n".encode("utf-32"), TWO),
    "lines of Windows": ("t.csv", "path,prompt\r\n0.mp4,a dog\r\n1.mp4,a cat\r\n", TWO),
    "a line break in quotes": (
        "t.csv",
        'path,prompt\n0.mp4,"a dog\nruns"\n1.mp4,a cat\n',
        {"0.mp4": "a dog\nruns", "1.mp4": "a cat"},
    ),
    "a Windows line break in quotes": (
        "t.csv",
        'path,prompt\r\n0.mp4,"a dog\r\nruns"\r\n',
        {"0.mp4": "a dog\r\nruns"},
    ),
    "two blank lines in quotes": (
        "t.tsv",
        'path\tprompt\n0.mp4\t"a dog\n\n\nruns"\n',
        {"0.mp4": "a dog\n\n\nruns"},
    ),
    "U+2028": ("t.csv", "path,prompt\n0.mp4,a dog\u2028runs\n", {"0.mp4": "a dog\u2028runs"}),
    "U+0085, VT and FF": (
        "t.csv",
        "path,prompt\n0.mp4,a\x85b\x0bc\x0cd\n",
        {"0.mp4": "a\x85b\x0bc\x0cd"},
    ),
    "U+2028 in JSON lines": (
        "t.jsonl",
        '{"path":"0.mp4","prompt":"a\u2028b"}\n',
        {"0.mp4": "a\u2028b"},
    ),
    "blank lines": ("t.csv", "\npath,prompt\n0.mp4,a dog\n\n ,\n1.mp4,a cat\n,\n\n", TWO),
    "semicolons": ("t.csv", 'path;prompt\n0.mp4;"a dog"\n1.mp4;a cat\n', TWO),
    "semicolons, commas in prompts": (
        "t.csv",
        "path;prompt\n0.mp4;a dog, a cat\n",
        {"0.mp4": "a dog, a cat"},
    ),
    "tabs under .csv": ("t.csv", "path\tprompt\n0.mp4\ta dog\n1.mp4\ta cat\n", TWO),
    "commas under .tsv": ("t.tsv", "path,prompt\n0.mp4,a dog\n1.mp4,a cat\n", TWO),
    "tabs": ("t.tsv", 'path\tprompt\n0.mp4\ta "dog"\n', {"0.mp4": 'a "dog"'}),
    "capitals in the header": ("t.csv", "Path,PROMPT\n0.mp4,a dog\n1.mp4,a cat\n", TWO),
    "blanks in the header": ("t.csv", 'path , prompt\n0.mp4 , a dog\n1.mp4, "a cat"\n', TWO),
    "blanks in cells alone belong to the prompt": (
        "t.csv",
        "path,prompt\n0.mp4,  a dog \n",
        {"0.mp4": "  a dog "},
    ),
    "usual names": ("t.csv", "video,caption\n0.mp4,a dog\n1.mp4,a cat\n", TWO),
    "usual names, spelt otherwise": (
        "t.csv",
        "File-Name,Text Prompt\n0.mp4,a dog\n1.mp4,a cat\n",
        TWO,
    ),
    "vidrl's name before a usual one": (
        "t.csv",
        "path,text,prompt\n0.mp4,x,a dog\n1.mp4,y,a cat\n",
        TWO,
    ),
    "row numbers of pandas": ("t.csv", ",path,prompt\n0,0.mp4,a dog\n1,1.mp4,a cat\n", TWO),
    "a quote inside a cell": (
        "t.csv",
        'path,prompt\n0.mp4,a 5" screen\n',
        {"0.mp4": 'a 5" screen'},
    ),
    "JSON": ("t.json", json.dumps(LIST), TWO),
    "JSON of paths and prompts": ("t.json", json.dumps(TWO), TWO),
    "JSON lines under .json": ("t.json", "\n".join(map(json.dumps, LIST)), TWO),
    "one object": ("t.json", json.dumps(LIST[0]), {"0.mp4": "a dog"}),
    "JSON lines": ("t.jsonl", "\ufeff\r\n" + "\r\n\r\n".join(map(json.dumps, LIST)), TWO),
    "no prompt by null, NaN or nothing": (
        "t.jsonl",
        '{"path":"0","prompt":null}\n{"path":"1","prompt":NaN}\n{"path":"2","prompt":""}\n'
        '{"path":"3","prompt":"x"}',
        {"0": "", "1": "", "2": "", "3": "x"},
    ),
    "an empty cell": (
        "t.csv",
        "path,prompt\n0.mp4,\n1.mp4,a cat\n",
        {"0.mp4": "", "1.mp4": "a cat"},
    ),
    "a cell longer than Python's usual limit": (
        "t.csv",
        f"path,prompt\n0.mp4,{'x' * 200_000}\n",
        {"0.mp4": "x" * 200_000},
    ),
    "paths of Windows": ("t.csv", "path,prompt\nv\\0.mp4,a dog\n", {"v/0.mp4": "a dog"}),
}
REFUSED = {
    "Latin-1": ("t.csv", "path,prompt\n0.mp4,café\n".encode("latin1"), "save the file as UTF-8"),
    "UTF-16 without its mark": (
        "t.csv",
        "path,prompt\n0.mp4,a dog\n".encode("utf-16-le"),
        "line 1.*NUL",
    ),
    "NUL": ("t.csv", "path,prompt\n0.mp4,a dog\0\n", "line 2: expected text, got a NUL"),
    "NUL in JSON": (
        "t.jsonl",
        '{"path":"0.mp4","prompt":"a\\u0000b"}',
        "line 1: expected prompt to be text",
    ),
    "a comma without quotes": (
        "t.csv",
        "path,prompt\n0.mp4,a dog, a cat\n",
        "line 2: expected 2 columns.*got 3",
    ),
    "a row cut short": (
        "t.csv",
        "path,prompt,seed\n0.mp4,a dog\n1.mp4,a cat,1\n",
        "line 2: expected 3 columns.*got 2",
    ),
    "a quote that stays open": (
        "t.csv",
        'path,prompt\n0.mp4,a\n1.mp4,"a cat\n2.mp4,b\n',
        "line 3: .*quote",
    ),
    "text after a quote": ("t.csv", 'path,prompt\n0.mp4,"a" dog\n', "line 2: .*quote"),
    "no header": (
        "t.csv",
        "0.mp4,a dog\n1.mp4,a cat\n",
        "expected a column path.*got 0.mp4, a dog",
    ),
    "one column twice": ("t.csv", "path,prompt,prompt\n0.mp4,a,b\n", "got prompt twice"),
    "one column in two spellings": (
        "t.csv",
        "path,Path,prompt\n0,1,a\n",
        "one column of path.*'path' and 'Path'",
    ),
    "two usual names": (
        "t.csv",
        "video,file,prompt\n0,1,a\n",
        "one column of path.*'video' and 'file'",
    ),
    "two prompts": (
        "t.jsonl",
        '{"path":"0","text":"a","caption":"b"}',
        "one column of prompt.*'text' and 'caption'",
    ),
    "no path": ("t.csv", "path,prompt\n,a dog\n", "line 2: expected a path"),
    "a list": (
        "t.jsonl",
        '{"path":"0.mp4","prompt":["a dog"]}',
        "line 1: expected prompt to be text",
    ),
    "a number": (
        "t.json",
        '[{"path":"0.mp4","prompt":3}]',
        "entry 1: expected prompt to be text, got 3",
    ),
    "a row without the key": (
        "t.jsonl",
        '{"path":"0","prompt":"a"}\n{"path":"1"}',
        "line 2: expected 'prompt'",
    ),
    "a key twice": (
        "t.jsonl",
        '{"path":"0","prompt":"a","prompt":"b"}',
        "line 1: .*'prompt' comes twice",
    ),
    "columns of JSON": ("t.json", '{"path":["0"],"prompt":["a"]}', "expected a list of"),
    "JSON cut off": ("t.json", '[{"path":"0"', "expected JSON"),
    "a path twice": (
        "t.csv",
        "path,prompt\n0.mp4,a\n./0.mp4,b\n",
        "line 3: ./0.mp4 is on line 2 already",
    ),
    "a path twice, once in full": (
        "t.csv",
        f"path,prompt\n{os.path.abspath('/t/0.mp4')},a\n../../../../../../../../t/0.mp4,b\n",
        "line 3: .* is on line 2 already",
    ),
    "NUL in a path": ("t.jsonl", '{"path":"0.mp4\\u0000","prompt":"a"}', "line 1: expected a path"),
    "half of a pair": (
        "t.jsonl",
        '{"path":"0.mp4","prompt":"\\ud800"}',
        "line 1: expected prompt to be text",
    ),
    "JSON nested without end": ("t.json", "[" * 100_000, "expected JSON.*nested too deeply"),
    "a seed of many digits": (
        "t.csv",
        f"path,prompt,seed\n0.mp4,a,{'9' * 5000}\n",
        "line 2: expected seed to be",
    ),
    "a seed in words": (
        "t.csv",
        "path,prompt,seed\n0.mp4,a,x\n",
        "line 2: expected seed to be a whole number",
    ),
    "a seed that lost its digits": (
        "t.csv",
        "path,prompt,seed\n0.mp4,a,1e3\n",
        "seed to be a whole number.*'1e3'",
    ),
}


def made(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_score_and_bench_read_the_same_prompts_of_a_table(case, tmp_path):
    name, text, wanted = UNDERSTOOD[case]
    file = made(tmp_path, name, text)
    assert {row.path: row.prompt for row in manifest.read(file)} == wanted
    assert manifests.read_prompts(file) == {
        tmp_path / path: prompt for path, prompt in wanted.items()
    }


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_table_cannot_tell_is_refused_by_both_with_its_place(case, tmp_path):
    name, text, said = REFUSED[case]
    file = made(tmp_path, name, text)
    for read in (manifest.read, manifests.read_prompts):
        with pytest.raises(BadTable, match=f"(?s){said}"):
            read(file)


@pytest.mark.parametrize(
    "text, said",
    [
        ("path;prompt\n0.mp4;x\n", "separated by ';'"),
        ("video,caption\n0.mp4,x\n", "'video' is read as the path"),
        ("path,text,prompt\n0.mp4,a,b\n", "'prompt' is read as the prompt"),
        (",path,prompt\n0,0.mp4,a\n", "a column without a name is not read"),
        ("path,prompt\n0.mp4,\n1.mp4,a\n", "1 of 2 rows have an empty prompt"),
        ("path,prompt\nv\\0.mp4,a\n", "backslashes of paths are read as slashes"),
    ],
)
def test_what_was_forgiven_is_told(text, said, tmp_path):
    heard = []
    manifests.read_rows(made(tmp_path, "prompts.csv", text), heard.append)
    assert [said in note for note in heard].count(True) == 1
    (tmp_path / "0.mp4").touch()
    assert any(said in note for note in items.find([tmp_path]).notes)


def test_seeds_and_other_columns_are_kept(tmp_path):
    text = "path,prompt,seed,camera\n0.mp4,a,18446744073709551615,pan\n1.mp4,b,None,\n2.mp4,c,3.0,zoom\n"
    found = manifest.read(made(tmp_path, "t.csv", text))
    assert [(row.seed, dict(row.meta)) for row in found] == [
        (18446744073709551615, {"camera": "pan"}),
        (None, {}),
        (3, {"camera": "zoom"}),
    ]
    assert [row.where for row in found] == ["line 2", "line 3", "line 4"]


def test_a_row_says_the_line_that_it_begins_on(tmp_path):
    file = made(tmp_path, "t.csv", 'path,prompt,seed\n0.mp4,"a\nb\nc",1\n1.mp4,"d\ne",x\n')
    with pytest.raises(BadTable, match="line 5: expected seed"):
        manifest.read(file)


@pytest.mark.parametrize("text", ["a dog\na cat\n\n\n", "a dog\r\na cat\r\n", "a dog\n a cat"])
def test_lines_of_text_in_order_without_blank_ones_at_the_end(text, tmp_path):
    assert manifests.read_prompts(made(tmp_path, "p.txt", text)) == ["a dog", "a cat"]
    assert manifests.read_prompts(made(tmp_path, "p.txt", "a\u2028b\x0bc\nd")) == [
        "a\u2028b\x0bc",
        "d",
    ]


@pytest.mark.parametrize("name", ["p.yaml", "p.csv.gz", "p.xlsx"])
def test_a_file_of_another_kind_is_no_list_of_prompts(name, tmp_path):
    for read in (manifest.read, manifests.read_prompts):
        with pytest.raises(BadTable, match=r"expected .* table ending in .csv"):
            read(made(tmp_path, name, "a dog\n"))


def test_parquet_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install .*tables.*, or save the table as .csv"):
        manifest.read(made(tmp_path, "t.parquet", b"PAR1"))


def test_parquet_is_read_as_the_other_tables(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "video": ["0.mp4", "1.mp4"],
        "caption": ["a\ndog", None],
        "seed": [3.0, float("nan")],
        "__index_level_0__": [0, 1],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert [
        (row.path, row.prompt, row.seed, dict(row.meta))
        for row in manifest.read(tmp_path / "t.parquet")
    ] == [("0.mp4", "a\ndog", 3, {}), ("1.mp4", "", None, {})]
    with pytest.raises(BadTable, match="expected a Parquet file"):
        manifest.read(made(tmp_path, "broken.parquet", b"PAR1"))


def test_a_table_beside_another_is_told_to_be_unread(tmp_path):
    made(tmp_path, "prompts.csv", "path,prompt\n0.mp4,a\n")
    made(tmp_path, "prompts.json", '{"0.mp4": "b"}')
    (tmp_path / "0.mp4").touch()
    found = items.find([tmp_path])
    assert (
        found.items[0].prompt == "a"
        and "prompts.json in the same folder is not read" in found.notes
    )


def test_a_name_that_differs_by_case_is_told_with_the_one_that_is_there(tmp_path):
    (tmp_path / "0.mp4").touch()
    file = made(tmp_path, "t.csv", "path,prompt\n0.MP4,a\n")
    if not Path(tmp_path / "0.MP4").exists():
        assert "0.mp4 exists, and differs by letter case" in items.find([], file).skipped[0]["why"]


def test_a_table_that_names_some_files_serves_the_others_without_a_prompt(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    table = {tmp_path / "a.mp4": "a dog"}
    assert manifests.match_prompts([tmp_path], table) == (
        [tmp_path / "a.mp4", tmp_path / "b.mp4"],
        {str(tmp_path / "a.mp4"): "a dog", str(tmp_path / "b.mp4"): ""},
    )


def test_a_table_that_names_none_of_the_files_says_which_it_names(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    (tmp_path / "other.csv").write_text("path,prompt\nelsewhere/a.mp4,a dog\n")
    with pytest.raises(ValueError, match="rows of other files, the first of .*elsewhere"):
        manifests.match_prompts(
            [tmp_path / "clips"], manifests.read_prompts(tmp_path / "other.csv")
        )
    # another set may have the rows
    (note,) = items.find([tmp_path / "clips"], tmp_path / "other.csv").notes
    assert "its rows are of other files, the first of" in note and "elsewhere" in note
