"""vidrl.bench.preference_files: the three layouts, and files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from vidrl.bench.preference_files import Choice, read


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    lines = "\n".join(json.dumps(row) for row in content) if name.endswith("jsonl") else ""
    path.write_text(
        content if isinstance(content, str) else lines or json.dumps(content), encoding="utf-8"
    )
    return path


def short(choices: list[Choice]) -> list[tuple[str, str, int, str]]:
    return [(Path(c.first).name, Path(c.second).name, c.choice, c.aspect) for c in choices]


def test_our_own(tmp_path: Path) -> None:
    rows = [
        {
            "path_a": "x.mp4",
            "path_b": "y.mp4",
            "prompt": 'a "red" cat, <b>',
            "choice": "A",
            "rater": "r1",
        },
        {"path_a": "x.mp4", "path_b": "z.mp4", "choice": "tie", "dim": "motion"},
    ]
    found = read(write(tmp_path, "c.jsonl", rows))
    assert short(found.choices) == [
        ("x.mp4", "y.mp4", 1, "overall"),
        ("x.mp4", "z.mp4", 0, "motion"),
    ]
    assert found.choices[0].prompt == 'a "red" cat, <b>' and found.choices[0].rater == "r1"
    assert found.choices[0].first == str(tmp_path / "x.mp4") and "path_a" in found.layout
    table = write(
        tmp_path, "c.csv", 'path_a,path_b,prompt,choice\nx.mp4,y.mp4,"one, two\nthree",b\n'
    )
    assert (
        read(table).choices[0].prompt == "one, two\nthree" and read(table).choices[0].choice == -1
    )


def test_videogen_reward_bench(tmp_path: Path) -> None:
    text = (
        "path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall,fps_A,num_frames_A,fps_B,num_frames_B\n"
        "videos/1.mp4,videos/2.mp4,m1,m2,a cat,A,same,B,A,24,121,24,121\n"
        "videos/1.mp4,videos/3.mp4,m1,m3,a cat,B,B,,same,24,121,24,121\n"
    )
    found = read(write(tmp_path, "videogen-rewardbench.csv", text))
    assert found.layout.startswith("VideoGen-RewardBench") and found.aspects == [
        "VQ",
        "MQ",
        "TA",
        "Overall",
    ]
    assert [c.choice for c in found.choices] == [1, 0, -1, 1, -1, -1, 0]
    assert found.notes == ["1 answer is blank in the file"]
    assert found.choices[0].first == str(tmp_path / "videos" / "1.mp4")


SCORES = {
    "visual quality": 3,
    "temporal consistency": 4,
    "dynamic degree": 1,
    "text-to-video alignment": 2,
    "factual consistency": 2,
}


def clip(name: str, prompt: str, **scores: int) -> dict[str, Any]:
    link = f"https://huggingface.co/datasets/TIGER-Lab/VideoFeedback/resolve/main/videos/{name}.mp4"
    return (
        {"id": name, "text prompt": prompt, "video link": link}
        | SCORES
        | {key.replace("_", " "): value for key, value in scores.items()}
    )


def test_videofeedback(tmp_path: Path) -> None:
    rows = [clip("p1", "a cat"), clip("p2", "a cat", temporal_consistency=2), clip("p3", "a dog")]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "p2.mp4").write_bytes(b"")
    found = read(write(tmp_path, "data_annotated.json", rows))
    assert found.layout.startswith("VideoFeedback") and found.aspects == list(SCORES)
    assert [c.choice for c in found.choices] == [0, 1, 0, 0, 0]
    assert found.choices[0].first == str(tmp_path / "p1.mp4"), "by its name where no file is found"
    assert found.choices[0].second == str(tmp_path / "deep" / "p2.mp4"), "anywhere below"
    assert found.notes == ["1 prompt has one clip, and so no pair"]
    assert found.scores["temporal consistency"] == dict(zip(found.prompts, [4.0, 2.0, 4.0]))


def test_videoscore_bench(tmp_path: Path) -> None:
    said = "\n".join(f"{name}: {score}" for name, score in SCORES.items())
    rows = [
        {
            "id": f"v{i}",
            "images": ["1.jpg"],
            "conversations": [
                {
                    "from": "human",
                    "value": 'For this video, the text prompt is "a red cat",\nall the frames ...',
                },
                {"from": "gpt", "value": said.replace("visual quality: 3", f"visual quality: {i}")},
            ],
        }
        for i in (1, 2)
    ]
    found = read(write(tmp_path, "bench.jsonl", rows))
    assert found.aspects == list(SCORES) and found.choices[0].prompt == "a red cat"
    assert [c.choice for c in found.choices] == [-1, 0, 0, 0, 0]
    listed = [{"id": f"v{i}", "prompt": "a", "score_list": [i, 1, 1, 1, 1]} for i in (1, 2)]
    assert [c.choice for c in read(write(tmp_path, "lists.jsonl", listed)).choices] == [
        -1,
        0,
        0,
        0,
        0,
    ]


def test_scores_of_any_name(tmp_path: Path) -> None:
    found = read(
        write(tmp_path, "mine.csv", "path,prompt,smooth,seed\na.mp4,p,1.5,0\nb.mp4,p,2.5,1\n")
    )
    assert short(found.choices) == [("a.mp4", "b.mp4", -1, "smooth")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "c.csv",
            "path_a,path_b,choice\nx,y,better\n",
            "line 2: expected choice to be a, b or tie",
        ),
        ("c.csv", "path_a,path_b,prompt,choice\nx,y,one, two,a\n", "line 2: expected 4 columns"),
        (
            "c.csv",
            "left,right\nx,y\n",
            "has the columns left, right; expected one of these layouts",
        ),
        ("c.csv", "path_a,path_b,choice\n,y,a\n", "line 2: expected the path of a clip"),
        ("c.csv", "", "found none"),
        ("c.jsonl", "{oops", "line 1: expected one JSON object"),
        ("c.json", '{"a": []}', "a list of"),
        ("c.csv", 'path_a,path_b,choice\nx,"y,a\n', "line 2: .*quote"),
        ("c.txt", "", "expected a table ending in"),
        ("c.csv", None, "expected a file of judgments at"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.csv", 'path_a;path_b;prompt;choice\nx.mp4;y.mp4;"a\ndog, b\u2028c";a\n'),
        ("c.tsv", 'path_a\tpath_b\tprompt\tchoice\nx.mp4\ty.mp4\t"a\ndog, b\u2028c"\ta\n'),
        (
            "c.jsonl",
            '{"path_a": "x.mp4", "path_b": "y.mp4", "prompt": "a\\ndog, b\u2028c", "choice": '
            '"a"}\n',
        ),
    ],
)
def test_prompts_of_choices_keep_their_line_breaks(tmp_path: Path, name: str, text: str) -> None:
    (choice,) = read(write(tmp_path, name, text)).choices
    assert choice.prompt == "a\ndog, b\u2028c" and choice.choice == 1


def test_shares_of_answers_count_once_as_the_majority(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "a cat",
            "video1": f"{i}.mp4",
            "video2": "b.mp4",
            "weighted_results1_Preference": share,
            "weighted_results2_Preference": 1 - share,
        }
        for i, share in enumerate((0.75, 0.25, 0.5))
    ]
    found = read(write(tmp_path, "data.jsonl", rows))
    assert short(found.choices) == [
        ("0.mp4", "b.mp4", 1, "Preference"),
        ("1.mp4", "b.mp4", -1, "Preference"),
        ("2.mp4", "b.mp4", 0, "Preference"),
    ]
    assert found.notes == [
        "6 answers with weights, or shares of answers, are joined: 3 pairs of a rater, each with "
        "the answer of the majority"
    ]
