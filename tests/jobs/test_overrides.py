"""An override sets what was typed: text literally, other values as YAML, and a mistake is named as it was typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.config import RunConfig
from jobs.loading import load_config
from jobs.overrides import apply_override
from sae.config import walk_keys
from sae.errors import ConfigError, MonosemError


def value_of(override, *path):
    values = {}
    apply_override(values, override)
    for part in path or override.partition("=")[0].split("."):
        values = values[int(part) if isinstance(values, list) else part]
    return values


@pytest.mark.parametrize(
    "text",
    [
        "runs/a #b",
        "runs/a#b",
        "2024",
        "1e3",
        "true",
        "a: b",
        "*glob",
        "!x",
        "%x",
        "&a",
        "@x",
        "`x",
        "- a",
        "{a}",
        "a=b",
        "[x",
        "~/runs",
        "'",
        'say "x"',
        " a",
    ],
)
def test_text_is_taken_literally(text):
    assert value_of(f"output={text}") == text
    assert value_of(f"subject.model={text}") == text
    assert value_of(f"harvest.pool.labels.zone={text}") == text
    assert value_of(f"training.dictionaries.0.name={text}") == text


def test_quotation_marks_and_null_mean_what_they_mean_in_a_file():
    assert value_of("output='runs/a #b'") == "runs/a #b"
    assert value_of('output="a\\tb"') == "a\tb"
    assert value_of("store=null") is None
    assert value_of("output=null") == "null"
    assert value_of("store='null'") == "null"
    assert value_of("harvest.num_sequences=null") is None


def test_a_list_of_texts_is_given_as_a_list_or_as_one_text():
    assert value_of("corpus.text=[a, 'b c']") == ["a", "b c"]
    assert value_of("corpus.text=data/*.txt #1") == "data/*.txt #1"
    assert value_of("harvest.hookpoints=blocks.0.hook_out") == "blocks.0.hook_out"
    assert load_config(None, ["output=x", "corpus.text=2024"]).corpus.text == ["2024"]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("harvest.seed=7", 7),
        ("harvest.seed=1_000", 1000),
        ("training.dictionaries.0.sae.l1_coefficient=2e-3", 0.002),
        ("cluster.worker_logs=true", True),
    ],
)
def test_other_values_are_yaml(override, value):
    assert value_of(override) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("harvest.seed=1 #b", "harvest.seed=1 #b: what follows '#' would be a comment"),
        ("harvest.seed=0x10", "harvest.seed: expected a whole number, found '0x10'"),
        ("harvest.seed=010", "harvest.seed: expected a whole number, found '010'"),
        ("harvest.seed=1:30", "found '1:30'"),
        ("cluster.worker_logs=yes", "cluster.worker_logs: expected true or false, found 'yes'"),
        ("harvest.seed=!!python/name:os.system x", "tags are not read"),
        ("harvest.seed=" + "1" * 5000, "a number of 5,000 digits"),
        ("harvest.seed=" + "[" * 5000, "nested more than 32 levels"),
        ("harvest.seed={a: 1, a: 2}", "the key 'a' occurs twice"),
        ("harvest.seed=[&a [*a]]", "an alias of what it stands in"),
        ("harvset.num_workers=3", "^unknown key 'harvset.num_workers': did you mean harvest.num_workers"),
        ("training.batchsize=512", r"^unknown key 'training\.batchsize': did you mean training\.batch_size\?$"),
        ("batch_size=512", r"did you mean training\.batch_size\?$"),
        (
            "training.dictionaries.topk.sae.kk=3",
            r"^unknown key 'training\.dictionaries\.topk\.sae\.kk': did you mean training\.dictionaries\.topk\.sae\.k\?$",
        ),
        ("training.dictionaries.relu.sae.k=3", r"'training\.dictionaries\.relu\.sae\.k': it is a key of topk, batch_topk, matryoshka; relu has "),
        (
            "training.dictionaries.topk.sae.architecture=topkk",
            r"^training\.dictionaries\.topk\.sae\.architecture: expected one of .*: did you mean topk\?$",
        ),
        ("training.dictionaries.tpok.sae.k=3", "no element 'tpok'; there are topk, relu: did you mean topk"),
        ("=5", "is not an override"),
        ("harvest.num_workers.x=5", "harvest.num_workers"),
        ("output=s3:/bucket/x", "two slashes"),
        ("output=", "output: "),
        ("harvest.hookpoints=[a, a]", "harvest.hookpoints: 'a' is named twice"),
        ("training.dictionaries=[]", "training.dictionaries: list should have at least 1 item"),
    ],
)
def test_a_mistake_is_named_as_it_was_typed(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, ["output=x", override] if not override.startswith("output") else [override])
    assert "RunConfig" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_an_override_reaches_into_the_defaults():
    config = load_config(None, ["output=x", "training.dictionaries.topk.sae.k=32", "training.dictionaries.relu.sae.architecture=topk"])
    topk, other = config.training.dictionaries
    assert (topk.name, topk.sae.k, topk.sae.d_sae) == ("topk", 32, 4096)
    assert (other.name, other.sae.architecture) == ("relu", "topk")
    assert load_config(None, ["output=x", "training.dictionaries.topk.seed=0"]) == load_config(None, ["output=x"])


def test_an_override_fills_a_section_that_is_null(tmp_path):
    (tmp_path / "run.yaml").write_text("output: x\ninterpretation: {language_model: null}\ntraining:\n")
    overrides = ["interpretation.language_model.model=2024", "training.dictionaries.topk.sae.k=32"]
    config = load_config(str(tmp_path / "run.yaml"), overrides)
    assert config.interpretation.language_model.model == "2024"
    assert config.training.dictionaries[0].sae.k == 32


def test_an_override_changes_one_place_where_an_alias_stands_in_two(tmp_path):
    sae = "{architecture: topk, d_sae: 64, k: 4}"
    (tmp_path / "run.yaml").write_text(f"output: x\ntraining: {{dictionaries: [{{name: a, sae: &s {sae}}}, {{name: b, sae: *s}}]}}\n")
    config = load_config(str(tmp_path / "run.yaml"), ["training.dictionaries.a.sae.k=8"])
    assert [each.sae.k for each in config.training.dictionaries] == [8, 4]


def test_a_mistake_in_a_grid_names_the_dictionary_it_made(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "output: x\ntraining:\n  dictionaries:\n"
        "  - {name: g, sae: {architecture: topk, d_sae: 64}, grid: {sae.k: [4, 8]}}\n"
        "  - {name: last, sae: {architecture: topk, k: -1}}\n"
    )
    with pytest.raises(ConfigError, match=r"^training\.dictionaries\.last\.sae\.k: "):
        load_config(str(tmp_path / "run.yaml"), [])
    config = load_config(str(tmp_path / "run.yaml"), ["training.dictionaries.last.sae.k=1", "training.dictionaries.g.grid.sae.k=[2, 3, 4]"])
    assert len(config.training.dictionaries) == 4


@pytest.mark.fuzz
@given(
    st.sampled_from([key.path.replace("NAME", "topk") for key in walk_keys(RunConfig)] + ["", "x", "training", "training.dictionaries", "a.b.c"]),
    st.text(max_size=30) | st.text(alphabet="[]{}:,#&*!|>'\"%@`-? \n0123456789.eE+_naif", max_size=30),
)
def test_any_override_is_taken_or_refused_in_one_line(key, text):
    message = ""
    try:
        load_config(None, ["output=x", f"{key}={text}"])
    except MonosemError as error:
        message = str(error)
    assert len(message) < 1000
    assert message.isprintable()
