"""To the Hub and back, with the real client against a small Hub on loopback.

Four processes, each of which does many things and reports them as JSON; the tests look at the reports and at what lies
on the Hub. "Strangers" are processes that can import neither this package nor decord.
"""

import ast
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub

from factories import ROOT

CODE = {path.name for path in (ROOT / "modeling_cvls").glob("*_cvls.py")}  # flat files go with every checkpoint
COMPLETE = CODE | {"README.md", "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
WHOLE = COMPLETE | {"model.safetensors"}
TASK = "video-language-segmentation"
pytestmark = pytest.mark.slow
SAME = 1e-5  # of logits; those of different checkpoints are far from each other

COMMON = """
import json, sys
from pathlib import Path
work = Path(sys.argv[1])
import numpy as np
import torch
torch.set_num_threads(1)
report = {}
frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
sentences = ["the small red circle", "the square moving left"]

def attempt(call):
    try:
        return type(call()).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"

@torch.no_grad()
def logits(model, processor):
    inputs = processor(videos=frames[:4], text=sentences)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
    return model.eval()(**inputs).mask_logits.float()

def distance(model, processor, name):
    return (logits(model, processor) - torch.load(work / f"{name}.pt")).abs().max().item()

def loads_of(name, **kwargs):
    # the four ways, each with the module of the class that runs, and how far its output is from what was pushed
    model = AutoModel.from_pretrained(name, **kwargs)
    processor = AutoProcessor.from_pretrained(name, **kwargs)
    pipes = [pipeline(TASK, model=name, **kwargs), pipeline(model=name, **kwargs)]
    found = {"model": model, "processor": processor, "with task": pipes[0], "without task": pipes[1]}
    found |= {"pipeline's model": pipes[1].model, "pipeline's processor": pipes[1].processor}
    found |= {"video processor": processor.video_processor}
    masks = [pipe(frames, sentences, threshold=0.3, presence_threshold=0.0)[0]["masks"] for pipe in pipes]
    return {
        "modules": {key: type(value).__module__ for key, value in found.items()},
        "distance": [distance(m, processor, "second") for m in (model, pipes[0].model, pipes[1].model)],
        "masks": [list(masks[0].shape), bool((masks[0] == masks[1]).all())],
        "task": pipes[1].task,
    }
"""

STRANGER = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_cvls", "decord"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

PUSH = """
sys.path[:0] = [str(Path(sys.argv[2]) / part) for part in ("", "tests")]
from factories import ROOT, tiny_config, tiny_tokenizer
from huggingface_hub import HfApi
from transformers import AutoProcessor, TrainingArguments, pipeline

import cvls
from modeling_cvls import CVLSModel, CVLSProcessor, CVLSVideoProcessor
from modeling_cvls.data import ClipCollator, ClipSampler
from modeling_cvls.model_card import make_card
from modeling_cvls.training import CVLSTrainer

processor = CVLSProcessor(CVLSVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}), tiny_tokenizer())
dataset = work / "a2d"
dataset.mkdir()
results = {"mean_iou": 0.5, "overall_iou": 0.25, "mAP": 0.125, "num_pairs": 8}
checkpoints = {}
for seed, name in enumerate(("first", "second", "third")):
    torch.manual_seed(seed)
    model = CVLSModel(tiny_config(carry_state=name == "second")).eval()
    torch.save(logits(model, processor), work / f"{name}.pt")
    checkpoints[name] = work / name
    model.save_pretrained(checkpoints[name])
    processor.save_pretrained(checkpoints[name])
    make_card(model, str(checkpoints[name]), results, dataset=str(dataset), split="test").save(
        checkpoints[name] / "README.md"
    )

def push(name, repository, *flags):
    cvls.main(["push", "--model", str(checkpoints[name]), "--repo-id", repository, *flags])

saved = [torch.load(work / f"{name}.pt") for name in checkpoints]
assert min((saved[0] - saved[1]).abs().max(), (saved[1] - saved[2]).abs().max()) > 0.1
push("first", "tester/segmenter")
HfApi().create_tag("tester/segmenter", tag="v1")
push("second", "tester/segmenter")
push("second", "tester/secret", "--private")
try:
    push("second", "tester/segmenter", "--private")
except SystemExit as refusal:
    assert refusal.code == 2  # it is public: private was asked for, so nothing goes up
else:
    raise AssertionError("pushed to a public repository")
push("third", "tester/branches", "--max-shard-size", "20KB")
push("second", "tester/branches", "--revision", "whole")

model = CVLSModel.from_pretrained(checkpoints["second"])
model.push_to_hub("tester/sharded", max_shard_size="20KB")
AutoProcessor.from_pretrained(checkpoints["second"]).push_to_hub("tester/sharded")
segmenter = pipeline("video-language-segmentation", model=str(checkpoints["second"]))
segmenter.push_to_hub("tester/pipeline")
trainer = CVLSTrainer(
    model=model, processing_class=processor, data_collator=ClipCollator(processor, ClipSampler(4)),
    args=TrainingArguments(str(work / "run"), hub_model_id="tester/trainer", use_cpu=True, report_to="none"),
)
trainer.state.log_history += [{"eval_mean_iou": 0.1}, {"eval_mean_iou": 0.75, "eval_spatial/mean_iou": 0.5, "step": 2}]
trainer.push_to_hub(dataset="A2D Sentences", dataset_args="test", tags="mine")

print("pushed", flush=True)
sys.stdin.readline()
push("third", "tester/segmenter")
"""

LOAD = """
from transformers import AutoModel, AutoProcessor, pipeline
TASK = "video-language-segmentation"
calls = {
    "model": lambda name, **kwargs: AutoModel.from_pretrained(name, **kwargs),
    "processor": lambda name, **kwargs: AutoProcessor.from_pretrained(name, **kwargs),
    "pipeline": lambda name, **kwargs: pipeline(TASK, model=name, **kwargs),
    "pipeline without task": lambda name, **kwargs: pipeline(model=name, **kwargs),
}
"""

STRANGER_ONLINE = """
report["package"] = attempt(lambda: __import__("modeling_cvls"))
name, trust = "tester/segmenter", {"trust_remote_code": True}
report["refused"] = {
    f"{key}, {value}": attempt(lambda: call(name, trust_remote_code=value))
    for key, call in calls.items() for value in (False, None)
}
report["loads"] = loads_of(name, **trust)
processor = AutoProcessor.from_pretrained(name, **trust)

def load(repository=name, **kwargs):
    return AutoModel.from_pretrained(repository, **trust, **kwargs)

segmenter = calls["pipeline"](name, revision="v1", **trust)
report["v1"] = max(distance(model, processor, "first") for model in (load(revision="v1"), segmenter.model))
report["private"] = {key: attempt(lambda: call("tester/secret", token=False, **trust)) for key, call in calls.items()}
report["repositories"] = {}
for repository in ("tester/secret", "tester/sharded", "tester/pipeline", "tester/trainer"):
    segmenter = calls["pipeline without task"](repository, **trust)
    report["repositories"][repository] = distance(segmenter.model, segmenter.processor, "second")
report["branch"] = [
    distance(load("tester/branches"), processor, "third"),
    distance(load("tester/branches", revision="whole"), processor, "second"),
]
model = load(dtype="bfloat16")
report["bfloat16"] = [str(model.dtype), distance(model, processor, "second")]
segmenter = calls["pipeline"](name, dtype="bfloat16", **trust)
report["bfloat16 pipeline"] = [str(segmenter.model.dtype), len(segmenter(frames, sentences))]
report["device_map"] = [
    distance(load(device_map=device_map, max_memory={"cpu": 60_000}), processor, "second")
    for device_map in ("auto", "sequential", {"": "cpu"})
]
report["attention"] = {}
for choice in ("eager", "sdpa"):
    model = load(attn_implementation=choice)
    report["attention"][choice] = [
        model.config._attn_implementation,
        model.language.encoder.config._attn_implementation,
        distance(model, processor, "second"),
    ]

load().push_to_hub("tester/again")
processor.push_to_hub("tester/again")
calls["pipeline"](name, **trust).push_to_hub("tester/pipeline-again")
for again in ("again", "pipeline-again"):
    report[again] = loads_of(f"tester/{again}", **trust)
"""

OFFLINE = """
report["loads"] = loads_of("tester/segmenter", trust_remote_code=True)
report["v1"] = distance(
    AutoModel.from_pretrained("tester/segmenter", revision="v1", trust_remote_code=True),
    AutoProcessor.from_pretrained("tester/segmenter", trust_remote_code=True), "first",
)
report["not there"] = attempt(lambda: calls["model"]("tester/branches", revision="v9", trust_remote_code=True))
"""

AT_HOME = """
sys.path.insert(0, sys.argv[2])
import modeling_cvls
for again in ("segmenter", "again"):
    report[again] = loads_of(f"tester/{again}")
report["trusted"] = loads_of("tester/segmenter", trust_remote_code=True)
report["folder"] = loads_of(str(work / "second"))
AutoModel.from_pretrained("tester/again").push_to_hub("tester/home")
AutoProcessor.from_pretrained("tester/again").push_to_hub("tester/home")
segmenter = pipeline(model="tester/again")
segmenter.push_to_hub("tester/pipeline-home")
"""

REPORT = 'print("\\n" + json.dumps(report))\n'


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def start(hub, tmp_path_factory):
    """A function: starts Python on the given pieces of code, in a folder elsewhere, as a client of the Hub."""
    work, elsewhere = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("elsewhere")

    def start(*code: str, home: str = "home", **changes: str) -> subprocess.Popen:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
        environment = {**inherited, **hub.environment(work / home), "OMP_NUM_THREADS": "1", **changes}
        return subprocess.Popen(
            [sys.executable, "-I", "-c", "\n".join([COMMON, *code]), str(work), str(ROOT)],
            cwd=elsewhere, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def report_of(process: subprocess.Popen) -> dict:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def pushed(hub, start):
    """Everything is pushed; then a push to tester/segmenter is killed between upload and commit."""
    process = start(PUSH, home="home of the pusher")
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == "pushed":
            break
    else:
        pytest.fail(process.stderr.read()[-4000:])
    before = dict(hub.repositories["tester/segmenter"].refs)
    hub.hold_after_upload = True
    process.stdin.write("\n")
    process.stdin.flush()
    assert hub.uploaded.wait(120)
    process.kill()
    process.communicate()
    hub.hold_after_upload = False
    hub.release.set()
    return before


@pytest.fixture(scope="module")
def stranger(pushed, start):
    return report_of(start(STRANGER, LOAD, STRANGER_ONLINE, REPORT))


@pytest.fixture(scope="module")
def later(stranger, start):
    """A stranger without network, and a process with the package, side by side."""
    processes = [
        start(STRANGER, LOAD, OFFLINE, REPORT, HF_HUB_OFFLINE="1"),
        start(LOAD, AT_HOME, REPORT, home="another home"),
    ]
    return [report_of(process) for process in processes]


@pytest.fixture(scope="module")
def offline(later):
    return later[0]


@pytest.fixture(scope="module")
def at_home(later):
    return later[1]


def check_loads(loads: dict, module: str) -> None:
    assert {key: value.split(".")[0] for key, value in loads["modules"].items()} == dict.fromkeys(
        loads["modules"], module
    )
    assert max(loads["distance"]) < SAME
    assert loads["masks"] == [[6, 48, 64], True]
    assert loads["task"] == TASK


@pytest.mark.parametrize(
    "name", ["segmenter", "secret", "pipeline", "trainer", "again", "pipeline-again", "home", "pipeline-home"]
)
def test_a_pushed_repository_is_complete(hub, later, name):
    files = hub.files(f"tester/{name}")
    assert WHOLE - {".gitattributes"} <= set(files)
    for file in CODE:
        assert files[file] == (ROOT / "modeling_cvls" / file).read_bytes()
        imports = [node for node in ast.walk(ast.parse(files[file])) if isinstance(node, ast.ImportFrom)]
        for node in imports:  # siblings and libraries, never this package
            assert (f"{node.module}.py" in CODE) if node.level else not node.module.startswith("modeling_cvls")
    config = json.loads(files["config.json"])
    assert config["auto_map"] == {"AutoConfig": "configuration_cvls.CVLSConfig", "AutoModel": "modeling_cvls.CVLSModel"}
    pipelines = {TASK: {"impl": "pipeline_cvls.CVLSPipeline", "pt": ["AutoModel"], "type": "multimodal"}}
    assert config["custom_pipelines"] == pipelines
    assert json.loads(files["processor_config.json"])["auto_map"]["AutoProcessor"] == "processing_cvls.CVLSProcessor"


def test_weights_come_in_shards(hub, pushed):
    files = set(hub.files("tester/sharded"))
    assert COMPLETE <= files and "model.safetensors.index.json" in files
    assert len([file for file in files if file.endswith(".safetensors")]) > 2
    # a later push of whole weights to a branch leaves no shard behind
    assert "model.safetensors" not in hub.files("tester/branches")
    assert set(hub.files("tester/branches", "whole")) == WHOLE | {".gitattributes"}


def test_the_script_takes_one_commit_and_private_is_private(hub, pushed):
    assert hub.repositories["tester/segmenter"].messages == ["initial commit"] + 2 * ["Upload CVLS segmenter"]
    assert hub.repositories["tester/secret"].private and not hub.repositories["tester/segmenter"].private


def test_the_card_has_the_measured_results(hub, pushed):
    card = ModelCard(hub.files("tester/segmenter")["README.md"].decode())
    assert card.data.pipeline_tag == "image-segmentation"
    assert (card.data.library_name, card.data.license, card.data.datasets) == ("transformers", "apache-2.0", ["a2d"])
    assert card.data.model_name == "segmenter"
    assert {(result.metric_type, result.metric_value) for result in card.data.eval_results} == {
        ("mean_iou", 0.5), ("overall_iou", 0.25), ("mAP", 0.125)
    }  # fmt: skip
    assert {(result.dataset_name, result.dataset_split) for result in card.data.eval_results} == {("a2d", "test")}
    assert "\n# segmenter\n" in card.content and 'model="tester/segmenter"' in card.content
    assert "{{" not in card.content and "{%" not in card.content


@pytest.mark.parametrize("name", ["sharded", "pipeline", "again", "pipeline-again", "home", "pipeline-home"])
def test_the_card_goes_along(hub, later, name):
    card = ModelCard(hub.files(f"tester/{name}")["README.md"].decode())
    assert card.data.model_name == name and f'model="tester/{name}"' in card.content
    assert {result.metric_type: result.metric_value for result in card.data.eval_results}["mean_iou"] == 0.5


def test_the_trainer_pushes_the_card_with_its_last_evaluation(hub, pushed):
    card = ModelCard(hub.files("tester/trainer")["README.md"].decode())
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.75)
    assert (result.dataset_name, result.dataset_split) == ("A2D Sentences", "test")
    assert 'model="tester/trainer"' in card.content and "mine" in card.data.tags


def test_a_push_that_is_killed_between_upload_and_commit_changes_nothing(hub, pushed, stranger):
    assert hub.repositories["tester/segmenter"].refs == pushed
    check_loads(stranger["loads"], "transformers_modules")  # main is still what was pushed second


def test_without_the_package_and_without_trust_it_is_refused(stranger):
    assert stranger["package"].startswith("ModuleNotFoundError")
    assert len(stranger["refused"]) == 8
    for call, answer in stranger["refused"].items():
        assert answer.startswith("ValueError") and "trust_remote_code=True" in answer, (call, answer)


def test_whatever_pushed_it_loads(stranger):
    assert stranger["repositories"].keys() == {f"tester/{n}" for n in ("secret", "sharded", "pipeline", "trainer")}
    assert max(stranger["repositories"].values()) < SAME


def test_revisions(stranger, offline):
    assert max(stranger["v1"], offline["v1"], *stranger["branch"]) < SAME


def test_a_private_repository_is_not_there_without_the_token(stranger):
    for call, answer in stranger["private"].items():
        assert answer.startswith("OSError"), (call, answer)


def test_dtype_device_map_and_attention(stranger):
    dtype, distance = stranger["bfloat16"]
    assert dtype == "torch.bfloat16" and 0 < distance < 0.5
    assert stranger["bfloat16 pipeline"] == ["torch.bfloat16", 2]
    assert max(stranger["device_map"]) < SAME
    for choice, (own, of_text, distance) in stranger["attention"].items():
        assert (own, of_text) == (choice, choice) and distance < SAME


def test_loaded_from_the_hub_and_pushed_again_it_loads(stranger):
    for again in ("again", "pipeline-again"):
        check_loads(stranger[again], "transformers_modules")


def test_offline_from_the_cache(offline):
    check_loads(offline["loads"], "transformers_modules")
    assert offline["not there"].startswith("OSError")


def test_with_the_package_no_trust_is_needed_and_local_code_runs(at_home):
    for name in ("segmenter", "again", "trusted", "folder"):
        check_loads(at_home[name], "modeling_cvls")
