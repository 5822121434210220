"""The store of answers: it only grows, nothing is lost, and other questions are refused."""

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")

from vidrl import cli
from vidrl.feedback import files
from vidrl.feedback.judgments import Fault
from vidrl.feedback.questionnaire import Axis, Questionnaire, read
from vidrl.feedback.store import Answer, NameTaken, Shown, Store, tables
from vidrl.feedback.store_tables import WrongStore, is_store

PAIR = (Shown("/clips/a.mp4", "aa", 2.0), Shown("/clips/b.mp4", "bb", 2.0))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "taste.db", Questionnaire())


def test_an_answer_is_read_back_as_it_was_given(store):
    fault = Fault("/clips/b.mp4", 0.5, 1.25, ("flicker",), "a dog", "Ann")
    given = {"motion": "A", "overall": "bad"}
    answer = Answer("Ann", PAIR, given, (fault,), "a dog", "informative", seconds=3.5, click="x1")
    number = store.add(answer)
    again = Store(store.where).answers()
    assert again == [replace(answer, number=number, at=again[0].at, protocol=Questionnaire().hash)]
    assert again[0].at.endswith("Z")


def test_judgments_hold_choices_of_each_axis_and_the_faults(store):
    fault = Fault("/clips/a.mp4", 0.0, 0.5, (), "a dog", "Ann")
    store.add(Answer("Ann", PAIR, {"motion": "A", "overall": "bad"}, (fault,), "a dog"))
    found = store.judgments()
    assert [(c.first, c.second, c.choice, c.aspect, c.both_bad) for c in found.choices] == [
        ("/clips/a.mp4", "/clips/b.mp4", 1, "motion", False),
        ("/clips/a.mp4", "/clips/b.mp4", 0, "overall", True),
    ]
    assert found.faults == [fault]
    assert {(c.prompt, c.rater) for c in found.choices} == {("a dog", "Ann")}


def test_repeats_and_gold_pairs_are_judgments_on_request_only(store):
    for reason in ("random", "informative", "repeat", "gold"):
        store.add(Answer("Ann", PAIR, {"overall": "A"}, reason=reason))
    found = store.judgments()
    assert len(found.choices) == 2
    assert found.notes == [
        "1 answer of reason repeat is left out",
        "1 answer of reason gold is left out",
    ]
    assert len(store.judgments(("gold",)).choices) == 1
    with pytest.raises(ValueError, match="reasons of random"):
        store.judgments(("golden",))


def test_points_and_rankings(tmp_path):
    points = Store(tmp_path / "points.db", Questionnaire("points"))
    points.add(Answer("Ann", PAIR[:1], {"visual quality": 4}))
    assert [(one.points, one.low, one.high) for one in points.judgments().points] == [(4, 1, 5)]
    ranking = Store(tmp_path / "ranking.db", Questionnaire("ranking"))
    ranking.add(Answer("Ann", (*PAIR, Shown("/c")), {"overall": [2, 1, 2]}))
    assert [(r.clips[2], r.places) for r in ranking.judgments().rankings] == [("/c", (2, 1, 2))]


@pytest.mark.parametrize(
    ("mode", "shown", "given", "expected"),
    [
        ("pairs", PAIR[:1], {"overall": "A"}, "expected two clips in the mode pairs, got 1"),
        ("pairs", PAIR, {"overall": "C"}, "A, B, tie, bad"),
        ("pairs", PAIR, {"colour": "A"}, "an axis of motion"),
        ("points", PAIR[:1], {"visual quality": 6}, "1 to 5"),
        ("points", PAIR[:1], {"visual quality": True}, "1 to 5"),
        ("ranking", PAIR, {"overall": [1]}, "2 places"),
        ("ranking", PAIR, {"overall": [0, 1]}, "2 places"),
    ],
)
def test_answers_to_other_questions_are_refused(tmp_path, mode, shown, given, expected):
    store = Store(tmp_path / "taste.db", Questionnaire(mode))
    with pytest.raises(ValueError, match=expected):
        store.add(Answer("Ann", shown, given))
    assert store.records() == []


def test_undo_revokes_the_raters_newest_answer_and_deletes_nothing(store):
    for rater, choice in [("Ann", "A"), ("Ann", "B"), ("Bob", "tie")]:
        store.add(Answer(rater, PAIR, {"overall": choice}))
    assert store.undo("Ann", "u1").given == {"overall": "B"}
    assert store.undo("Ann", "u1").given == {"overall": "B"}  # the same click, sent twice
    assert [one.given["overall"] for one in store.answers()] == ["A", "tie"]
    assert store.undo("Ann").given == {"overall": "A"}
    assert store.undo("Ann") is None
    assert len(store.records()) == 5


def test_the_name_of_an_answer_is_no_undo(store):
    store.add(Answer("Ann", PAIR, {"overall": "A"}, click="hers"))
    store.add(Answer("Bob", PAIR, {"overall": "A"}, click="his"))
    for click in ("hers", "his"):
        with pytest.raises(ValueError, match="expected the name of a new click"):
            store.undo("Ann", click)
    assert len(store.answers()) == 2


def test_a_click_that_is_sent_twice_is_kept_once(store):
    first = store.add(Answer("Ann", PAIR, {"overall": "A"}, click="c"))
    assert store.add(Answer("Ann", PAIR, {"overall": "A"}, click="c")) == first
    assert len(store.records()) == 1


COLUMNS = (
    "number, at, rater, prompt, reason, expected, shown, given, faults, protocol, seconds, click"
)
OTHER = "1, at, 'Eve', prompt, reason, expected, shown, given, faults, protocol, seconds, 'x'"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET given = '{}'",
        "DELETE FROM records",
        f"INSERT OR REPLACE INTO records ({COLUMNS}) SELECT {OTHER} FROM records",
        f"REPLACE INTO records ({COLUMNS}) SELECT {OTHER.replace('1', '2', 1).replace(repr('x'), 'click')} FROM records",
        "REPLACE INTO questionnaire VALUES (1, 1, 'hash', '{}', 'now')",
        "UPDATE OR REPLACE records SET click = 'x'",
    ],
)
def test_the_file_itself_refuses_changes(store, change):
    store.add(Answer("Ann", PAIR, {"overall": "A"}))
    raw = sqlite3.connect(store.where)
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        raw.execute(change)
    raw.close()
    assert [one.rater for one in store.answers()] == ["Ann"]


@pytest.mark.parametrize("name", ["taste?.db", "a b.db", "50%.db", "x#y.db", "mode=ro.db", "taste"])
def test_any_name_of_a_file_is_a_store(tmp_path, name):
    file = tmp_path / "what?" / name
    file.parent.mkdir()
    Store(file, Questionnaire()).add(Answer("Ann", PAIR, {"overall": "A"}))
    assert file.is_file() and [one.name for one in tmp_path.iterdir()] == ["what?"]
    assert len(Store(file).answers()) == 1
    assert is_store(file)  # by its content, whatever its name
    assert len(files.read(file).judgments.choices) == 1


def test_the_address_of_a_sqlite_file_is_the_file(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/taste.db", Questionnaire())
    assert store.file == tmp_path / "taste.db" and store.file.is_file()
    with pytest.raises(WrongStore, match="in memory would be lost"):
        Store("sqlite://", Questionnaire())


def test_addresses_of_web_pages_are_no_stores(tmp_path):
    address = "https://ann:secret@host/taste.db"
    assert not is_store(address) and not is_store(tmp_path / "none.csv")
    with pytest.raises(files.BadTable, match=r"got the address https://ann:\*\*\*@host/taste.db"):
        files.read(address)
    with pytest.raises(WrongStore, match=r"postgresql://host/name, got https://ann:\*\*\*@"):
        Store(address, Questionnaire())


def test_a_database_without_its_driver_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError) as error:
        Store("postgresql+psycopg://ann:secret@host/taste", Questionnaire())
    told = str(error.value)
    assert "expected the driver psycopg for the store postgresql+psycopg://ann:***@host" in told
    assert "pip install 'psycopg[binary]'" in told and "secret" not in told
    with pytest.raises(WrongStore) as wrong:
        Store("postgresql://ann:secret@host:port/taste", Questionnaire())
    assert "host:port/name, got postgresql://ann:***@" in str(wrong.value)


@pytest.mark.parametrize(
    "words",
    [
        ["pairs", "show"],
        ["pairs", "report"],
        ["label", "--report", "--store"],
        ["fit", "--out", "OUT"],
        ["bench", "--preferences"],
    ],
)
def test_no_command_prints_the_password_of_a_database(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    where = "postgresql+psycopg://ann:secret@127.0.0.1:1/taste"
    assert cli.main([*words, where]) == 2
    shown = capsys.readouterr()
    told = shown.out + shown.err
    assert "secret" not in told and "ann:***@127.0.0.1" in told
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"secret" in text for text in written)
    assert not any("secret" in str(file) for file in tmp_path.rglob("*"))


def test_reports_of_a_database_name_it_without_its_password(store, tmp_path, capsys, monkeypatch):
    """The address of a server, whose answers lie in a file here."""
    for i in range(3):
        shown = tuple(Shown(f"/{side}/{i}.mp4") for side in ("base", "ours"))
        store.add(Answer("Ann", shown, {"overall": "A"}, prompt=f"prompt {i}"))
    monkeypatch.setattr("vidrl.feedback.store.engine_of", lambda where, file: store.engine)
    monkeypatch.chdir(tmp_path)
    where, out = "postgresql://ann:secret@host/taste", tmp_path / "out"
    out.mkdir()
    html = ["--html", str(out / "raters.html")]
    for words in (
        ["pairs", "show", where],
        ["pairs", "report", where, "--out", str(out), *html],
        ["label", "--report", "--store", where, *html],
        ["pairs", "convert", where, "--to", "vidrl", "--out", str(out / "own.jsonl")],
    ):
        assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err and "ann:***@host" in shown.out
    texts = {file.name: file.read_text() for file in out.iterdir()}
    assert texts.keys() == {"raters.md", "raters.json", "raters.html", "own.jsonl"}
    assert not [name for name, text in texts.items() if "secret" in text]
    assert "ann:***@host" in texts["raters.md"] and "ann:***@host" in texts["raters.html"]


def test_the_words_of_a_command_are_kept_without_a_password(monkeypatch):
    kept = []
    monkeypatch.setattr("vidrl.cli.fit._fit", lambda args: kept.extend(args.words))
    cli.main(["fit", "postgresql://ann:secret@host/taste", "--out", "taste"])
    assert kept == ["fit", "postgresql://ann:***@host/taste", "--out", "taste"]


def test_a_store_of_other_questions_is_refused_with_both_hashes_and_the_cure(store):
    other = Questionnaire(axes=(Axis("hands", "Which hands look real?"),))
    with pytest.raises(WrongStore) as error:
        Store(store.where, other)
    for part in (other.hash, Questionnaire().hash, "differs in axes", "--store"):
        assert part in str(error.value)


def test_paths_below_the_stores_folder_move_with_the_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    store = Store(home / "taste.db", Questionnaire())
    store.add(Answer("Ann", (Shown(f"{home}/a.mp4"), Shown("/far/b.mp4")), {"overall": "A"}))
    store.close()
    shutil.move(home, tmp_path / "moved")
    choice = Store(tmp_path / "moved" / "taste.db").judgments().choices[0]
    assert (choice.first, choice.second) == (f"{tmp_path}/moved/a.mp4", "/far/b.mp4")


def test_a_name_belongs_to_the_browser_that_took_it_first(store):
    store.claim("Ann", "secret of her browser")
    store.claim("Ann", "secret of her browser")
    with pytest.raises(NameTaken, match="choose another name"):
        store.claim(" ann ", "another secret")
    assert store.rater("secret of her browser") == "Ann"
    assert store.rater("another secret") is None
    assert b"secret of her browser" not in b"".join(
        file.read_bytes() for file in store.file.parent.iterdir()
    )


def test_files_that_are_no_stores_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no file"):
        Store(tmp_path / "taste.db")
    assert not (tmp_path / "taste.db").exists()
    with pytest.raises(FileNotFoundError, match="expected a file"):
        Store(tmp_path, Questionnaire())
    (tmp_path / "text.db").write_text("prompt,chosen,rejected\n")
    with pytest.raises(WrongStore, match="another kind"):
        Store(tmp_path / "text.db", Questionnaire())
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(WrongStore, match="could not use it"):
        Store(tmp_path / "other.db")
    with pytest.raises(WrongStore, match="other tables, such as t:"):
        Store(tmp_path / "other.db", Questionnaire())


WRITER = """
import sys
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.store import Answer, Shown, Store
store = Store(sys.argv[1], Questionnaire())
for i in range(40):
    shown = (Shown("/a"), Shown("/b"))
    store.add(Answer(sys.argv[2], shown, {"overall": "A"}, click=f"{sys.argv[2]}{i}"))
"""


def test_two_processes_create_and_fill_one_store(tmp_path):
    where = tmp_path / "taste.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(where), name]) for name in "AB"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    answers = Store(where).answers()
    assert sorted(one.rater for one in answers) == ["A"] * 40 + ["B"] * 40
    assert len({one.number for one in answers}) == 80


def test_postgresql_takes_the_same_tables_and_statements():
    import sqlalchemy as sql
    from sqlalchemy.dialects import postgresql

    made, dialect = tables(), postgresql.dialect()
    text = str(sql.schema.CreateTable(made.tables["records"]).compile(dialect=dialect))
    assert "number SERIAL NOT NULL" in text
    assert "UNIQUE (click)" in text and "UNIQUE (revokes)" in text
    table = made.tables["records"]
    insert = table.insert().values(click="c").returning(table.c.number).compile(dialect=dialect)
    assert str(insert).endswith("RETURNING records.number")


@pytest.mark.parametrize("tables", [0, 1])
def test_a_file_without_the_tables_of_a_store_is_named(tmp_path, tables):
    file = tmp_path / "empty.db"
    file.touch()
    if tables:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE other (x)")
    told = ["an empty file", "the database has no tables of a store"][tables]
    with pytest.raises(WrongStore, match=f"empty.db.*{told}"):
        Store(file)
    assert tables or not file.stat().st_size  # it is left as it was


def test_a_questionnaire_of_a_file(tmp_path):
    file = tmp_path / "axes.toml"
    file.write_text('[axes.hands]\nquestion = "Which hands look real?"\nlow = 1\nhigh = 3\n')
    found = read(file, "points")
    assert found.axes == (Axis("hands", "Which hands look real?", 1, 3),)
    assert found.hash != Questionnaire("points").hash
    file.write_text('[axes.hands]\nquestoin = "Which?"\n')
    with pytest.raises(ValueError, match="did you mean 'question'"):
        read(file)
    file.write_text('shows_prompt = "false"')
    with pytest.raises(ValueError, match="to be true or false, got 'false'"):
        read(file)
    with pytest.raises(FileNotFoundError, match="expected a TOML file of axes"):
        read(tmp_path / "none.toml")
    file.write_text("axes = 3")
    with pytest.raises(ValueError, match="tables"):
        read(file)
    with pytest.raises(ValueError, match="different names"):
        Questionnaire(axes=(Axis("a", "?"), Axis("a", "?")))
    with pytest.raises(ValueError, match="2 to 10 points"):
        Axis("a", "?", 1, 1)
