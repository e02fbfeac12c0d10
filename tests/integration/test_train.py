"""Runs on the cluster: preparation, training, evaluation, tracking and resuming."""

import json
import shutil
import threading
import time

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from hbt_ray.cluster.pipelines.train import export_encoder, run
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ClusterError, ConfigError, CorpusError, HbtError, StorageError, TrackingError
from hbt_ray.models.encoder import load_for_training, save_encoder
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler
from hbt_ray.tracking import training_runs
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.storage import StoragePath
from tests.integration.conftest import NUM_CPUS, tiny_config, write_corpus
from tests.integration.fault_injection import kill_one


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def benchmark(tmp_path):
    """Two parallel paragraphs of two sentences, one question each, in German and English."""
    folder = tmp_path / "squad"
    folder.mkdir()
    for language in ("de", "en"):
        paragraphs = []
        for number in range(2):
            first, second = f"{language} it has the number {number + 500}.", f"{language} no one knows why."
            text = f"{first} {second}"
            question = {
                "id": f"q{number}",
                "question": f"{language} which is {number + 500}",
                "answers": [{"text": "number", "answer_start": first.index("number")}],
            }
            breaks = [[0, len(first)], [len(first) + 1, len(text)]]
            paragraphs.append({"context": text, "sentence_breaks": breaks, "qas": [question]})
        (folder / f"{language}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


def test_run_writes_model_and_report_and_resumes_its_tracked_run(cluster, corpus, benchmark, tmp_path):
    config = tiny_config(
        corpus,
        prepare={"validation_share": 0.3},
        train={
            "workers": 2,
            "validation_every": 4,
            "validation_batches": 2,
            "evaluate_every": 5,
            "checkpoints_kept": 10,  # step 5 is evaluated again below
        },
        evaluate={"benchmarks": {"squad": str(benchmark)}, "precision": "fp32"},
    )
    out = tmp_path / "runs" / "tiny"
    finished = run(config, out)
    model = SentenceTransformer(str(out / "model"))
    assert model.encode_query(["de what is a10"]).shape == (1, 16)
    report = json.loads((out / "evaluation" / "squad" / "report.json").read_text())
    assert report["metrics"] == finished.metrics
    assert {"squad/mono/map", "squad/cross/map/de-en", "squad/multi/rank_distance"} <= report["metrics"].keys()

    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    [tracked] = training_runs(uri, "hbt")
    assert tracked.status == "FINISHED"
    assert {"train/loss", "train/pairs_per_s", "validation/loss", "squad/mono/map"} <= tracked.metrics.keys()
    assert tracked.params["mix.alpha"] == "0.5"

    history = MlflowClient(uri).get_metric_history(tracked.run_id, "squad/mono/map")
    assert {metric.step for metric in history} == {5, 10}  # while training continues, and at its end

    # As if the driver had been killed before the checkpoint of step 5 was evaluated.
    (out / "measured" / "5.json").unlink()
    before = weights(out)
    run(config, out)
    history = MlflowClient(uri).get_metric_history(tracked.run_id, "squad/mono/map")
    assert [metric.value for metric in history if metric.step == 5] == [history[0].value] * 2
    [again] = training_runs(uri, "hbt")
    assert again.run_id == tracked.run_id
    assert same_weights(weights(out), before)

    with pytest.raises(ConfigError, match=r"mix\.alpha=0\.5, and this one has 0\.9"):
        run(tiny_config(corpus, mix={"alpha": 0.9}, prepare={"validation_share": 0.3}, train={"workers": 2}), out)


def kill_a_worker_after_a_checkpoint(checkpoints: StoragePath, killed: list[int]) -> None:
    for _ in range(600):
        steps = CheckpointManager(checkpoints).steps()
        if steps and kill_one("RayTrainWorker"):
            killed.append(steps[-1])
            return
        time.sleep(0.05)


def train_without_ray(config, store, initial_model, out):
    """Train in this process on the sampler's batches in order."""
    opened = TokenStore.open(store)
    sampler = training_sampler(config, opened.manifest)
    trainer = ContrastiveTrainer(
        load_for_training(config.model, config.text, initial_model), config.train, seed=config.seed
    )
    for step in range(config.train.steps):
        trainer.step(step, [build_batch(sampler.batch(step), opened, chunk_pairs=config.train.chunk_pairs)])
    save_encoder(trainer.encoder, out / "model")


@pytest.fixture(scope="module")
def interrupted_run(cluster, bucket, tmp_path_factory):
    """Return settings and folder of a run with its checkpoints in an object store, whose worker was killed."""
    folder = tmp_path_factory.mktemp("interrupted")
    train = {"steps": 60, "checkpoint_every": 10}
    storage = f"{bucket}/{folder.name}?{bucket.query}"
    config = tiny_config(write_corpus(folder), storage=storage, train=train, tracking={"log_model": False})
    out = folder / "run"
    killed: list[int] = []
    checkpoints = run_dir_of(config, out).checkpoints
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(checkpoints, killed))
    killer.start()
    run(config, out)
    killer.join()
    assert killed
    assert killed[0] < 60
    return config, out


def test_killed_worker_costs_no_batch_and_changes_no_weight(interrupted_run, one_thread, tmp_path):
    config, out = interrupted_run
    [store] = (out.parent / "stores").iterdir()
    train_without_ray(config, store, out / "initial_model", tmp_path)
    assert same_weights(weights(out), weights(tmp_path))


def test_run_resumes_from_an_object_store_without_its_folder(interrupted_run, bucket):
    config, out = interrupted_run
    expected = weights(out)
    assert (bucket / out.parent.name / "run" / "checkpoints" / "step-000000060" / "complete.json").exists()
    uri = f"sqlite:///{out.parent}/mlflow.db"
    [tracked] = training_runs(uri, "hbt")

    shutil.rmtree(out)  # as if another machine resumed the run
    run(config, out)
    assert same_weights(weights(out), expected)
    assert [again.run_id for again in training_runs(uri, "hbt")] == [tracked.run_id]


def test_early_stopping_ends_training_and_keeps_the_best_weights(cluster, corpus, tmp_path, capsys):
    # At this rate the loss cannot fall for long. Checkpoints without a validation come between those with one.
    train = {
        "steps": 60,
        "learning_rate": 0.5,
        "validation_every": 2,
        "validation_batches": 2,
        "checkpoint_every": 1,
        "early_stopping": {"patience": 3},
    }
    config = tiny_config(corpus, prepare={"validation_share": 0.3}, train=train, tracking={"log_model": False})
    run(config, tmp_path / "run")
    [tracked] = training_runs(f"sqlite:///{tmp_path}/mlflow.db", "hbt")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    losses = {m.step: m.value for m in client.get_metric_history(tracked.run_id, "validation/loss")}
    best = min(losses, key=losses.get)
    assert tracked.metrics["train/steps"] == best
    assert max(losses) == best + 3 * 2 < 60

    kept = weights(tmp_path / "run")
    capsys.readouterr()
    run(config, tmp_path / "run")  # it has ended, so calling again changes nothing
    assert "the training has already ended" in capsys.readouterr().err
    assert same_weights(weights(tmp_path / "run"), kept)


def test_fresh_checks_first_and_keeps_the_earlier_run_until_a_checkpoint(cluster, corpus, tmp_path, capsys):
    config = tiny_config(corpus, train={"steps": 4}, tracking={"log_model": False})
    out = tmp_path / "run"
    run(config, out)
    before = weights(out)
    missing = tiny_config(corpus, train={"steps": 4}, evaluate={"benchmarks": {"squad": str(tmp_path / "absent")}})
    with pytest.raises(CorpusError, match="absent"):
        run(missing, out, fresh=True)
    no_teacher = {"distillation": {"teacher": str(tmp_path / "absent"), "weight": 1.0}}
    with pytest.raises(HbtError):
        run(tiny_config(corpus, loss=no_teacher, tracking={"log_model": False}), out, fresh=True)
    assert same_weights(weights(out), before)
    run(config, out)
    assert "the training has already ended" in capsys.readouterr().err

    run(tiny_config(corpus, seed=5, train={"steps": 4}, tracking={"log_model": False}), out, fresh=True)
    assert not same_weights(weights(out), before)
    assert not (out / "replaced").exists()


def test_second_driver_on_a_folder_is_refused_and_harms_nothing(cluster, corpus, tmp_path, monkeypatch):
    config = tiny_config(corpus, train={"steps": 30, "checkpoint_every": 1}, tracking={"log_model": False})
    out = tmp_path / "run"
    refused = []

    def run_again() -> None:
        while not CheckpointManager(run_dir_of(config, out).checkpoints).steps():
            time.sleep(0.05)
        for fresh in (False, True):
            with pytest.raises(StorageError) as error:
                run(config, out, fresh=fresh)
            refused.append(str(error.value))

    second = threading.Thread(target=run_again)

    def export_once_refused(*arguments: object) -> None:
        second.join(60)
        export_encoder(*arguments)

    monkeypatch.setattr("hbt_ray.cluster.pipelines.train.export_encoder", export_once_refused)
    monkeypatch.setattr("hbt_ray.utils.folder_lock.RENEW_S", 0.5)  # until the next renewal a second driver waits
    second.start()
    run(config, out)
    assert len(refused) == 2
    assert all("run is in use by process" in message for message in refused)
    assert len(training_runs(f"sqlite:///{tmp_path}/mlflow.db", "hbt")) == 1


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        (
            {"train": {"workers": 100, "global_batch_pairs": 100, "chunk_pairs": 1}},
            ClusterError,
            f"write train.workers={NUM_CPUS}",
        ),
        ({"languages": ["de", "sw"]}, CorpusError, "'sw' is not in the corpora; there are de, en, fr"),
        ({"tracking": {"uri": "http://127.0.0.1:9"}}, TrackingError, "127.0.0.1:9"),
        ({"train": {"global_batch_pairs": 512}}, ConfigError, "smaller global_batch_pairs"),
        ({"train": {"validation_every": 2}, "prepare": {"validation_share": 0.0}}, ConfigError, "validation_share"),
        ({"model": {"path": "no/such/model"}}, ConfigError, "no/such/model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_run_refuses_impossible_settings_before_training(cluster, corpus, tmp_path, sections, error, message):
    with pytest.raises(error, match=message):
        run(tiny_config(corpus, **sections), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
