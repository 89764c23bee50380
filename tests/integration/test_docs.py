"""Every command in the documentation is run, in a small world, or checked where it cannot be.

A new command needs nothing here if it runs as it is in the world of docs_world.py. What makes it
small goes into SMALL; what cannot run goes into NOT_RUN, with the reason.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from docs_commands import STARTS, Command, find_pages, read_page
from docs_world import World

from openvclip.config import load_cfg
from openvclip.config.defaults import flatten, get_cfg

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: read_page(ROOT, name) for name in find_pages(ROOT)}
COMMANDS = [command for page in PAGES.values() for command in page.commands]
BLOCKS = [block for page in PAGES.values() for block in page.blocks]

TINY = ("MODEL.ARCH auto DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_JITTER_SCALES [32,36] "
        "DATA.TRAIN_CROP_SIZE 32 DATA.TEST_CROP_SIZE 32 DATA_LOADER.NUM_WORKERS 0")
CPU = "NUM_GPUS 0 TRAIN.MIXED_PRECISION False MODEL.CLIP_PATH ~/.cache/clip/ViT-B-16.pt"

# What is put behind the commands that a pattern finds, and their environment: enough to let a tiny
# CLIP and a handful of videos do. The first that fits is taken.
SMALL: dict[str, tuple[str, dict[str, object]]] = {
    r"run_net\.py --cfg configs/Synthetic/": ("DATA_LOADER.NUM_WORKERS 0", {}),
    r"run_net\.py --cfg configs/FewShot/": (
        f"{TINY} {CPU} SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0.0 TRAIN.BATCH_SIZE 4", {}),
    r"run_net\.py --cfg configs/BaseToNovel/": (
        f"{TINY} {CPU} TRAIN.BATCH_SIZE 4 TRAIN.EVAL_PERIOD 12 TRAIN.CHECKPOINT_PERIOD 12", {}),
    r"run_net\.py --cfg configs/(Kinetics|Supervised)/": (f"{TINY} {CPU}", {}),
    r"script/training/train_": (
        f"{TINY} SOLVER.WARMUP_EPOCHS 0.0 TRAIN.AUTO_RESUME False TEST.ENABLE False",
        {"EPOCHS": 1, "BATCH_SIZE": 4}),
    r"script/testing/": (TINY, {}),
    r"prepare_labels\.py few-shot": ("--allow-fewer", {}),
    r"prepare_labels\.py base-to-novel": ("--allow-fewer", {}),
    r"make_captions\.py": ("--device cpu", {}),
}

# Scripts that are run up to their calls of python, whose configs are then checked: they differ from
# ones that are run in backbone and dataset, and test_protocols.py runs them all.
UP_TO_PYTHON = [
    r"script/testing/zero_shot\.sh \w+ \w+", r"script/testing/raw_clip\.sh b16 (hmdb|k600)",
    r"script/testing/zero_shot_suite\.sh",
]

# What cannot run here. Of these the syntax, the files, the options and the keys are checked.
NOT_RUN = {
    r"MODEL\.CLIP_PATH (ViT-B-16-SigLIP2|PE-Core-B-16|ViT-B-16)/": "downloads the weights",
    r"weight_average\.py --source output/(siglip2|pe|dfn) ": "needs what training left",
    r"^(\w+=\S* )*bash script/quickstart(_captions|_methods)?\.sh": "takes minutes",
    r"^(\w+=\S* )*bash script/run_tests\.sh": "these are the tests",
    r"^(\w+=\S* )*bash tests/settings\.sh": "these are the tests, six times",
    r"^python -m pytest": "these are the tests",
    r"^(pip|apt|python3 -m venv) ?": "installs",
    r"^(python tests/lowest_versions|VENV=\.venv_lowest)": "installs, and these are the tests",
    r"(^| )\.\.\.( |$)": "stands for several commands",
    r"DATASET|FOLDER|\w\|\w": "stands for several commands",
    r"^openvclip [A-Za-z][a-zA-Z-]*$": "names a command",
    r"^openvclip backbones --check$": "takes minutes",
    r"my_clip\.mp4": "stands for somebody's own files",
    r" EXTENSIONS ": "names a module of somebody's own; test_extending.py runs the page's",
    r"benchmark\.py data --generate": "measures for minutes; test_benchmark.py runs it",
    r"benchmark\.py (methods|class-texts|against)": "measures for minutes; tests/tools runs them",
}
if importlib.util.find_spec("transformers") is None:
    NOT_RUN[r"make_captions\.py|(mine|part_\*)\.jsonl"] = "needs transformers"

# What is put before the blocks of Python that a pattern finds.
BEFORE_BLOCK = {
    # Where torchvision was built for another torch, as the page says.
    r"^import open_clip": "from openvclip.utils import torchvision_ops\n"
                          "torchvision_ops.import_torchvision()\n",
}


def reason_not_to_run(text: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, text)), None)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("docs"), ROOT)
    for line in (
        "ucf101 --videos /data/UCF-101 --annotations /data/ucfTrainTestlist",
        "hmdb51 --videos /data/hmdb51 --annotations /data/testTrainMulti_7030_splits",
        "kinetics400 --videos /data/k400", "kinetics600 --videos /data/k600",
        "folders --videos /data/mine --name mine",
    ):
        world.need(placed(f"python tools/prepare_labels.py {line}", world))
    world.make_captions()
    yield world
    world.close()


def placed(text: str, world: World) -> str:
    """The command with the world's /data and /models; HOME and the folder have the rest."""
    return re.sub(r"(?<![\w./])/(data|models)\b", rf"{world.root}/\1", text)


def finish(finished: subprocess.CompletedProcess[str], command: Command) -> str:
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, f"{command}\nleft with {finished.returncode}:\n{output}"
    assert "Traceback" not in output, f"{command}\n{output}"
    return finished.stdout


def run_command(command: Command, world: World) -> None:
    pair = next((pair for pattern, pair in SMALL.items() if re.search(pattern, command.text)),
                ("", {}))
    more, env = pair
    text = f"{placed(command.text, world)} {more}"
    if any(re.search(pattern, command.text) for pattern in UP_TO_PYTHON):
        check_calls(finish(world.run(text, record=True, OUT=world.root / "none", **env), command),
                    command)
    else:
        finish(world.run(text, **env), command)


def run_block(block: Command, world: World) -> None:
    """Run a block of Python as a program."""
    before = next((code for pattern, code in BEFORE_BLOCK.items()
                   if re.search(pattern, block.text)), "")
    file = world.root / "block.py"
    file.write_text(before + placed(block.text, world))
    finish(world.run(f"python {file}"), block)


def check_calls(shown: str, command: Command) -> None:
    """Look at the calls of python that a script would have made: their configs must load."""
    calls = [call.splitlines() for call in shown.split("\n\n") if "--cfg" in call]
    assert calls, f"{command} starts nothing:\n{shown}"
    for call in calls:
        lines = [line for line in call if line != ""]
        lines = lines[lines.index("--cfg"):]
        load_cfg(lines[1], lines[lines.index("--opts") + 1:])


def check_command(command: Command, world: World) -> None:
    """Check what can be known of a command without running it."""
    text = re.sub(r"(^| )\.\.\.( |$)", " ", command.text)
    if not re.search(r"\w\|\w", text):
        finish(world.run(f"bash -n <<< {shlex.quote(text)}"), command)
    words = text.replace("|", " ").split()
    keys = {*flatten(get_cfg()), "NUM_GPUS", "NUM_SHARDS"}
    if "EXTENSIONS" in words:  # which declare keys
        blocks = "".join(block.text for block in PAGES[command.page].blocks)
        keys |= set(re.findall(r'declare\(\{"([A-Z_.]+)"', blocks))
    for word in words:
        if re.match(r"(tools|script|tests|configs)/", word) and "X.yaml" not in word:
            assert (ROOT / word).exists(), f"{command}: there is no {word}"
        if re.match(r"[A-Z_]+\.[A-Z_.]+$", word) or word in ("NUM_GPUS", "NUM_SHARDS"):
            assert word in keys, f"{command}: there is no key {word}"
    tool = next((word for word in words if word.startswith("tools/")), None)
    if tool is not None:
        after = words[words.index(tool) + 1:]
        options = {word for word in after if word.startswith("--")}
        own = "EXTENSIONS" in words  # a subcommand that is not there without them
        called = after[0] if after and re.match(r"[a-z]", after[0]) and not own else ""
        shown = finish(world.run(f"python {tool} {called} -h"), command)
        # Options of the subcommand that is not named.
        module = re.search(r"from openvclip\.commands\.(\w+)", (ROOT / tool).read_text("utf-8"))
        if module:
            shown += (ROOT / f"openvclip/commands/{module[1]}.py").read_text("utf-8")
            shown += "".join(path.read_text("utf-8") for path in
                             ROOT.glob(f"openvclip/data/{module[1]}/*.py"))
        unknown = [option for option in options if not re.search(rf"{option}\b", shown)]
        assert not unknown, f"{command}: {tool} has no {', '.join(unknown)}"


@pytest.mark.parametrize("name", [n for n, page in PAGES.items() if page.commands or page.blocks])
def test_what_a_page_says_works(name, world):
    page = PAGES[name]
    for step in sorted(page.commands + page.blocks, key=lambda step: step.line):
        if step in page.blocks:
            run_block(step, world)
        elif step.text not in world.done:
            world.done.add(step.text)
            (check_command if reason_not_to_run(step.text) else run_command)(step, world)


@pytest.mark.parametrize("table", [SMALL, NOT_RUN, UP_TO_PYTHON, BEFORE_BLOCK],
                         ids=["small", "not run", "up to python", "before block"])
def test_every_entry_of_the_tables_is_still_needed(table):
    unused = [pattern for pattern in table
              if not any(re.search(pattern, command.text) for command in COMMANDS + BLOCKS)]
    assert not unused, f"no command in the documentation fits {unused}; remove the entries"


def test_nothing_that_runs_is_listed_as_not_running():
    both = [str(command) for command in COMMANDS if reason_not_to_run(command.text)
            and any(re.search(pattern, command.text) for pattern in UP_TO_PYTHON)]
    assert not both, both


def test_blocks_without_a_language_hold_no_commands():
    for page in PAGES.values():
        for block in page.others:
            lines = [line for line in block.text.splitlines() if STARTS.match(line.strip())]
            assert not lines, f"{block.page}:{block.line}: mark the block as bash: {lines}"


def test_commands_are_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "Call `python tools/x.py\n--a 1` or `tools/y.py`.\n\n```bash\n# about\nA=1 bash x.sh  # b\n"
        "python z.py \\\n    --b 2\n```\n\n```python\nx = 1\n```\n\n```\nplain\n```\n")
    page = read_page(tmp_path, "a.md")
    assert [(c.line, c.text) for c in page.commands] == [
        (1, "python tools/x.py --a 1"), (6, "A=1 bash x.sh"), (7, "python z.py --b 2")]
    assert [block.text for block in page.blocks] == ["x = 1\n"]
    assert [block.text for block in page.others] == ["plain\n"]


def test_mistakes_in_commands_are_noticed(world):
    for text in (
        "python tools/run_net.py --cfg configs/none.yaml ...", "bash script/none.sh",
        "python tools/run_net.py ... --opts MODEL.NUM_CLASES 3",
        "python tools/weight_average.py --begin 2 ...", "bash 'script/run_tests.sh",
    ):
        with pytest.raises(AssertionError):
            check_command(Command("a.md", 1, text), world)
    with pytest.raises(AssertionError, match="left with 2"):
        run_command(Command("a.md", 1, "python tools/weight_average.py --begin 2"), world)
    nowhere = "DATA=/data/none bash script/testing/raw_clip.sh b16 ucf"
    with pytest.raises(AssertionError, match="left with 1"):
        run_command(Command("a.md", 1, nowhere), world)
