"""What would fail later is refused in seconds, before Ray is started, and leaves no trace that refuses the corrected command."""

import json
import socket

import pytest

from jobs import checks, run
from jobs.checks import check_metrics, check_run, known_widths, short_text, text_tokens
from jobs.cli import main
from jobs.loading import load_config
from jobs.stages import WHOLE_WAY
from sae.corpus.sources import CorpusConfig
from sae.errors import ConfigError, HookpointError, InputError, PlanError, UserError
from sae.storage import Place
from services.cluster.config import ClusterConfig


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"a document of some words {number}", "label": str(number % 2)}) + "\n" for number in range(50)))
    return path


@pytest.fixture
def settings(tmp_path, text, tiny_subject_directory):
    return {"output": tmp_path / "run", "subject.model": tiny_subject_directory, "corpus.text": text, "corpus.context_length": 32}


def config(settings, **changes):
    changed = settings | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(None, [f"{key}={value}" for key, value in changed.items()])


def test_a_run_that_can_begin_is_let_through_and_writes_nothing(settings):
    check_run(config(settings), WHOLE_WAY)
    assert not settings["output"].exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"harvest__hookpoints": "blocks.0.mlp.hook_pst"}, HookpointError, "near ones: .*blocks.0.mlp.hook_post"),
        ({"harvest__hookpoints": "[blocks.0.mlp.hook_post, blocks.0.mlp.out.hook_in]"}, HookpointError, "two names of one hookpoint"),
        ({"corpus__context_length": 4096}, InputError, "corpus.context_length is 4096"),
        ({"corpus__text_field": "body"}, InputError, "body"),
        ({"corpus__text": "/nowhere/*.txt"}, InputError, "no file matches"),
        ({"subject__model": "/nowhere"}, InputError, "no model directory"),
        (
            {"training__dictionaries__topk__target_hookpoint": "blocks.0.hook_out"},
            ConfigError,
            r"topk.target_hookpoint: .* Add it to harvest.hookpoints",
        ),
        ({"interpretation__controls__shuffled_run": "/nowhere"}, InputError, "shuffled_run: there is no run at '/nowhere'"),
        ({"cluster__metrics_host": "no.such.host"}, ConfigError, "^cluster.metrics_host: /metrics cannot listen on 'no.such.host'"),
        ({"cluster__metrics_host": "a..b"}, ConfigError, "^cluster.metrics_host: "),
        ({"harvest__pool__num_cpus": 1000}, ConfigError, "harvest.pool.num_cpus: 1000 CPUs"),
        ({"evaluation__concepts__text": "/nowhere.jsonl"}, InputError, "labelled text"),
        ({"evaluation__text": "/nowhere.jsonl"}, InputError, "no file matches"),
    ],
)
def test_what_would_fail_later_is_refused_before_ray_is_started(settings, changes, error, message, monkeypatch):
    monkeypatch.setattr(run, "open_session", lambda _: pytest.fail("Ray was started"))
    with pytest.raises(error, match=message):
        run.run_stages(config(settings, **changes))
    assert not settings["output"].exists()


def test_an_output_that_is_a_file_or_below_one_is_refused_with_2(settings, text, capsys):
    for output in (text, text / "run"):
        words = [f"{key}={value}" for key, value in (settings | {"output": output}).items()]
        assert main(["train", *words]) == 2, output
        assert "is a file, and a directory is needed" in capsys.readouterr().err
    with pytest.raises(InputError, match="store: "):
        check_run(config(settings, store=text), WHOLE_WAY)


def test_a_stage_without_what_earlier_ones_leave_is_refused_before_ray_is_started(settings):
    with pytest.raises(InputError, match="/run/store holds no store: run `monosem harvest`"):
        check_run(config(settings), ("train",))
    Place(settings["output"]).put("store/manifest.json", b"{}")
    with pytest.raises(UserError, match="dictionaries/topk"):
        check_run(config(settings), ("evaluate",))


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"^cluster.metrics_port: /metrics cannot listen on '127.0.0.1', port {port}: .* Give another port, or 0"
        ):
            check_metrics(ClusterConfig(metrics_port=port))
    check_metrics(ClusterConfig(metrics_port=None, metrics_host="no.such.host"))


def test_labelled_text_may_be_one_file_or_several(settings, text, monkeypatch):
    monkeypatch.setattr(checks, "described_dictionaries", lambda urls, purpose: None)
    for value in (text, f"[{text}, {text}]"):
        assert config(settings, evaluation__concepts__text=value).evaluation.concepts.text[0] == str(text)
        check_run(config(settings, evaluation__concepts__text=value), ("concepts",))
    with pytest.raises(ConfigError, match="evaluation.concepts.text is null"):
        check_run(config(settings), ("concepts",))
    with pytest.raises(InputError, match="expected texts under 'text' and 'lable'"):
        check_run(config(settings, evaluation__concepts__text=text, evaluation__concepts__label_field="lable"), WHOLE_WAY)


def test_a_corrected_command_takes_over_what_a_refused_attempt_left(settings):
    """An attempt that ended before any stage was finished has nothing that another one would mix with."""
    wrong, right = config(settings, corpus__train_tokens=10), config(settings)
    run._write_resolved(wrong)
    run._write_resolved(right)
    assert Place(settings["output"]).get_json("config.json")["corpus"]["train_tokens"] is None


@pytest.mark.parametrize("work", ["corpus/manifest.json", "store/plan.json", "stages.json"])
def test_a_directory_with_work_of_another_run_is_refused_with_both_values(settings, work):
    run._write_resolved(config(settings, corpus__train_tokens=10))
    finished = {"pretrain": {"seconds": 1.0, "peak_rss_bytes": 1, "finished": True}}
    Place(settings["output"]).put_sealed(work, {"stages": finished, "versions": {}, "seeds": {}, "machine": None})
    with pytest.raises(PlanError, match=r"holds a run with another corpus\.train_tokens \(there 10, now null\)"):
        run._write_resolved(config(settings))


def test_text_that_is_shorter_than_what_is_asked_for_is_told(text):
    size = text.stat().st_size
    asked = CorpusConfig(text=[str(text)], train_tokens=3_000_000, held_out_tokens=10)
    assert text_tokens(asked) == size // 4
    assert short_text(asked).startswith(f"corpus.text has about {size // 4:,} tokens")
    assert short_text(CorpusConfig(text=[str(text)], train_tokens=size // 4)) is None
    assert short_text(CorpusConfig(text=[str(text)])) is None
    assert short_text(CorpusConfig(text=["dependencies"], train_tokens=10**9)) is None


def test_sizes_of_the_model_are_known_without_loading_it(settings, tmp_path):
    known = known_widths(config(settings))
    assert (known.d_in, known.d_vocab) == (32, 300)
    neurons = known_widths(config(settings, harvest__hookpoints="[blocks.0.mlp.hook_post, blocks.0.hook_resid_post]"))
    assert neurons.harvested == 32 + 16
    assert known_widths(config(settings, subject__model="org/name")).d_vocab == 1
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert known_widths(config(settings, subject__model=tmp_path)).d_vocab == 1
    assert known_widths(config(settings), from_scratch=True).d_vocab == 4096


def test_every_refusal_is_the_users_mistake():
    assert all(issubclass(kind, UserError) for kind in (ConfigError, HookpointError, InputError, PlanError))
