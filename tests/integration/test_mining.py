import json
import re

from click.testing import CliRunner

from hbt_ray.cli import main
from hbt_ray.cluster.mining import mine_on_cluster
from hbt_ray.cluster.prepare import prepare
from hbt_ray.config import dump_config
from hbt_ray.data.manifest import read_manifest
from hbt_ray.mining import MINED, mine
from tests.helpers import tiny_corpus
from tests.integration.conftest import tiny_config


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}


def test_tasks_mine_the_negatives_of_one_process(cluster, corpus, tmp_path, monkeypatch):
    tiny_corpus.make_encoder(tmp_path / "model")
    config = tiny_config(corpus, mine={"negatives": 2}, evaluate={"precision": "fp32"})
    model = str(tmp_path / "model")
    one = mine(config, model, tmp_path / "one")
    assert one.summary["languages"].keys() == {"de", "en", "fr"}

    # One node: the driver embeds and searches, by the command line.
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = ["mine", "--model", model, "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "driver")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert re.search(r"│ fr +│ +96 │ +[0-9]+ │ +192 │", result.output)
    assert files_of(tmp_path / "driver") == files_of(tmp_path / "one")

    # Several nodes: tasks do.
    monkeypatch.setattr(
        "hbt_ray.cluster.mining.node_resources", lambda resource: [2.0, 2.0] if resource == "CPU" else [0.0]
    )
    tasks = mine_on_cluster(config, model, tmp_path / "tasks")
    assert files_of(tmp_path / "tasks") == files_of(tmp_path / "one")

    # Everything is mined: the cluster is not queried.
    monkeypatch.setattr("hbt_ray.cluster.mining.node_resources", lambda resource: 1 / 0)
    assert mine_on_cluster(config, model, tmp_path / "tasks") == tasks
    refused = CliRunner().invoke(main, [*command, "negatives=3"])
    assert refused.exit_code == 2
    assert refused.stderr.endswith("mined with mine.negatives=2, and this call has 3; write another --out\n")

    store = prepare(config.model_copy(update={"corpora": tasks.corpora}).prepare_inputs, tmp_path / "stores")
    groups = read_manifest(store).sources["numbers"].groups
    assert {group.negatives for group in groups} == {2}
    assert json.loads((tmp_path / "tasks" / MINED).read_text())["sources"]["numbers"]["rows_read"] == 336
