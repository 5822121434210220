"""The shape of the code: who may import whom, one class a plug-in file, nothing heavy
imported early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vidrl import plugin

ROOT = Path(__file__).parent.parent

# From the top down; a module imports only from lines below its own, or from its own
# package.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"feedback.fit"},
    {"feedback.fit_validation"},
    {"feedback.fit_heads", "feedback.fit_card", "feedback.loop_folder"},
    {"feedback.fit_data", "feedback.fit_features", "feedback.fit_loss"},
    {"bench"},
    {"feedback.loop_page"},
    {"feedback.loop_measures"},
    {
        "benchmarks",
        "train",
        "steering",
        "cost",
        "schema",
        "worlds",
        "feedback.loop_plan",
    },
    {"training.loop"},
    {"training.restart"},
    {"training.between_rounds", "training.preflight"},
    {"training.assembly", "training.influence_plan"},
    {
        "training.update",
        "training.record",
        "training.held_out",
        "training.reward_workers",
        "training.kernels",
    },
    {"data.file_rounds", "training.unread"},
    {"data.clip_latents", "training.lockstep", "training.broadcast"},
    {"algorithms"},
    {"credit.influence", "training.clips"},
    {"training.chunks"},
    {"training.rollout"},
    {"training.weight_drift"},
    {"training.policy"},
    {"backbones"},
    {
        "audit",
        "report.run_report",
        "training.processes",
        "training.scored",
        "training.learning_rewards",
    },
    {"report.page", "training.evaluate", "training.model_source", "training.resume"},
    {
        "feedback.simulated_raters",
        "training.checkpoint",
        "config",
        "attention",
        "report.run_folder",
        "lora",
        "synthetic.motion_fit",
        "synthetic.action_fit",
        "synthetic.camera_fit",
    },
    {
        "credit",
        "synthetic.verifier",
        "synthetic.caption_fit",
        "synthetic.scene_fit",
        "synthetic.scene_verifier",
        "synthetic.agent_verifier",
        "diffusion.schedule",
        "training.changes",
        "training.inputs",
    },
    {"credit.advantages"},
    {
        "credit.parts",
        "credit.returns",
        "data.prompts",
        "training.stills",
        "training.about_reward",
        "transition",
        "segments",
        "estimators",
    },
    {
        "credit.estimators",
        "data.prompt_tables",
        "synthetic.scenes",
        "synthetic.agents",
        "synthetic.films",
    },
    {
        "diffusion.transition",
        "diffusion.learned_gaussian",
        "diffusion.segments",
        "synthetic.world",
        "synthetic.corruptions",
        "data.clip_files",
        "data.fitting",
    },
    {"feedback.raters"},
    {"feedback.files", "feedback.summary"},
    {"feedback.held"},
    {"feedback.formats"},
    {"data.references", "synthetic.splat", "synthetic.paths"},
    {"data.prompt"},
    {"data.picture"},
    {"feedback.labelling"},
    {"rewards"},
    {"inference"},
    {"feedback.selection"},
    {"feedback.store"},
    {"feedback.store_tables", "feedback.questionnaire"},
    {
        "diffusion.path",
        "training.pieces",
        "feedback.bradley_terry",
        "plugin",
        "recipe",
        "report.charts",
        "training.introduction",
        "training.launch",
        "training.sharding",
        "training.context_parallel",
        "training.guards",
        "training.learning_rate",
        "training.standstill",
        "training.progress",
        "feedback.answers",
        "feedback.reliability",
        "feedback.raters_page",
        "feedback.pace",
    },
    {"lookup", "report.render", "diffusion.precision", "feedback.judgments"},
]
LEVEL = {name: len(LAYERS) - i for i, layer in enumerate(LAYERS) for name in layer}
# rooms of which each module has a line of its own
ROOMS = {"diffusion", "training", "data", "synthetic", "report", "feedback"}


def line(name):
    """The longest part of a module's dotted name that has a line of its own."""
    parts = name.split(".")
    found = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((part for part in found if part in LEVEL), None)


SCRIPTS = ("benchmarks.studies.", "benchmarks.peers.")  # called by people, as the command line is
HEAVY = ("diffusers", "transformers", "accelerate", "peft", "av", "safetensors")


def modules():
    """Every module of the package by its dotted name below vidrl, with its file."""
    for folder in (ROOT / "vidrl", ROOT / "rewards", ROOT / "benchmarks"):
        for path in sorted(folder.glob("**/*.py")):
            inside = path.relative_to(folder if folder.name == "vidrl" else ROOT).with_suffix("")
            linked = folder.name == "vidrl" and inside.parts[0] in ("rewards", "benchmarks")
            if str(inside) != "__init__" and not linked:
                yield ".".join(inside.parts).removesuffix(".__init__"), path


def imports(name, path):
    """Yield the dotted names below vidrl that a module imports.

    Imports inside functions and imports for the type checker alone count, too.
    """
    package = ["vidrl", *name.split(".")][: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            found = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (one.removeprefix("vidrl.") for one in found if one.startswith("vidrl."))


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lines_below_its_own(name):
    own = "cli" if name.startswith(SCRIPTS) else line(name)
    if name in ROOMS:
        return  # the docstring of a room
    assert own in LEVEL, (
        f"{name} has no line yet: give it one in LAYERS here and in ARCHITECTURE.md"
    )
    for imported in imports(name, MODULES[name]):
        other = line(imported)
        if other in (own, line(name)) or imported == "__version__":
            continue
        assert LEVEL[other] < LEVEL[own], (
            f"{name} imports {imported}, which stands on no line below its own"
        )
        # a study may train
        measures = name.startswith("benchmarks.") and not name.startswith(SCRIPTS)
        trains = measures and other in ("training.loop", "algorithms", "training.update")
        assert not trains, f"{name} imports {imported}: a distance between sets knows no training"


def module_of(imported):
    """The module that a dotted name is, or that holds the name; None for other packages."""
    return next((name for name in (imported, imported.rpartition(".")[0]) if name in MODULES), None)


def circle(graph):
    """Return a circle of modules where each imports the next, or nothing."""
    while leaves := [name for name, used in graph.items() if not used & graph.keys()]:
        graph = {name: used for name, used in graph.items() if name not in leaves}
    walk = list(graph)[:1]  # every module that is left imports another one that is left
    while walk and walk.count(walk[-1]) == 1:
        walk.append(min(graph[walk[-1]] & graph.keys()))
    return walk[walk.index(walk[-1]) :] if walk else []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_through_others():
    graph = {
        name: {module_of(one) for one in imports(name, path)} - {None, name}
        for name, path in MODULES.items()
    }
    found = circle(graph)
    assert not found, f"these modules import each other: {' -> '.join(found)}"


ALONE = ("rewards", "inference", "diffusion.path", "plugin", "lookup")


@pytest.mark.parametrize("name", [name for name in MODULES if line(name) in ALONE])
def test_the_reward_library_stands_alone(name):
    others = {imported.split(".")[0] for imported in imports(name, MODULES[name])}
    allowed = {
        "rewards": {"rewards", "plugin", "lookup"},
        "plugin": {"lookup"},
        "lookup": {"lookup"},
        "inference": {"inference"},
    }
    assert others <= allowed.get(name.split(".")[0], set())


@pytest.mark.parametrize("kind", plugin.kinds())
def test_each_plugin_file_holds_one_class_and_knows_no_sibling(kind):
    for name in plugin.names(kind):
        assert issubclass(plugin.find(kind, name), plugin.base(kind))
        siblings = {f"{kind}.{other}" for other in plugin.names(kind)} - {f"{kind}.{name}"}
        for imported in imports(f"{kind}.{name}", MODULES[f"{kind}.{name}"]):
            depth = kind.count(".") + 2
            assert ".".join(imported.split(".")[:depth]) not in siblings, (
                f"{kind}/{name}.py imports {imported}"
            )


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(made.stdout.split())


def test_importing_the_rewards_imports_nothing_heavy():
    assert not loaded_by("import vidrl.rewards") & set(HEAVY)


def test_the_command_line_starts_without_torch():
    code = (
        "from vidrl.cli import main\ntry: main(['--help'])\nexcept SystemExit: "
        "pass\nsys.stdout.write('\\n')"
    )
    assert not loaded_by(code) & {"torch", "numpy", "cv2", *HEAVY}


def test_ruff_finds_nothing():
    made = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout


@pytest.mark.slow
def test_mypy_finds_nothing():
    made = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout
