"""The command line teaches: every verb has help, and mistakes are one line."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from jobs.cli import VERBS, main
from jobs.keys import default_text, type_text
from jobs.usage import KEYS, SECTIONS, USED
from sae.config import walk_keys


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert "examples:" in shown


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.configured])
@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_help_of_a_configured_verb_is_one_screen_of_keys_options_and_examples(verb, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= (70 if columns == "60" else 50)
    longest = max(len(word) for line in shown for word in line.split())
    assert all(len(line) <= max(int(columns), longest + 4) for line in shown if not line.startswith("usage: "))
    assert any(line.startswith("  output = required") for line in shown)
    assert any(line.startswith(f"  monosem {verb}") for line in shown)
    assert "monosem keys" in " ".join(shown)


def test_help_says_what_the_configuration_says():
    from jobs.config import RunConfig
    from sae.training.config import TrainingConfig

    keys = {key.path: key.field for key in walk_keys(RunConfig)}
    for path, (default, meaning) in KEYS.items():
        field = keys[path]
        value = field.get_default(call_default_factory=True)
        known = "required" if field.is_required() or path.endswith("architecture") else default_text(value)
        assert default == known, path
        assert meaning.startswith(f"{type_text(field.annotation)}: "), path
    assert TrainingConfig().dictionaries[0].sae.k == 20
    for verb, used in USED.items():
        assert set(used) <= set(KEYS), verb
        assert 1 <= len(used) <= 13
    assert set(USED) == set(SECTIONS) == {name for name, verb in VERBS.items() if verb.configured}
    for sections in SECTIONS.values():
        assert set(sections.replace(",", "").split()) <= set(RunConfig.model_fields) | {
            "all",
            "but",
            *["those", "of", "the", "command", "that", "is", "submitted"],
        }


def test_help_needs_no_import_of_torch_or_ray():
    code = "import atexit, sys; atexit.register(lambda: print({'torch', 'ray', 'pydantic'} & set(sys.modules)))"
    code += "; from jobs.cli import main; main(['train', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_word_at_all_shows_the_help(capsys):
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 0
    assert "commands:" in capsys.readouterr().out


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("monosem")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "monosem: unknown command 'trian': did you mean train?"),
        (["xyzzy"], "monosem: unknown command 'xyzzy'. Known: run, pretrain, "),
        (["run", "--gpu"], "monosem run: unknown option '--gpu'. Settings are keys: write gpu=VALUE"),
        (["run", "--output", "x"], "monosem run: unknown option '--output'. Settings are keys: write output=x"),
        (["run", "--output=x", "harvest.seed=1"], "monosem run: unknown option '--output=x'. Settings are keys: write output=x"),
        (["run", "--overlapp"], "monosem run: unknown option '--overlapp': did you mean --overlap?"),
        (["run", "--over"], "monosem run: unknown option '--over'"),
        (["show", "x", "--verfy"], "monosem show: unknown option '--verfy': did you mean --verify?"),
        (["show", "x", "--gpu"], "monosem show: unknown option '--gpu'. Known: "),
        (["show", "somewhere", "training.seed=2"], "monosem show: unexpected argument 'training.seed=2': show takes no settings"),
        (["submit", "trian"], "monosem submit: unknown command 'trian': did you mean train?"),
        (["export", "a", "b", "--format", "saelenz"], "monosem export: unknown choice 'saelenz': did you mean saelens?"),
        (["serve", "x", "--port", "99999"], "monosem serve: argument --port: '99999' is not a TCP port: give a number from 0 to 65535"),
        (["serve", "x", "--port", "-1"], "monosem serve: "),
        (["rate", "x", "--features", "1e9"], "monosem rate: argument --features: '1e9' is not a whole number"),
        (["show"], "monosem show: the following arguments are required: url"),
    ],
)
def test_a_mistyped_word_is_one_line_with_the_one_that_may_be_meant(words, message, capsys):
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_keys_lists_all_keys_or_those_of_a_section(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["keys"]) == 0
    everything = capsys.readouterr().out
    assert max(map(len, everything.splitlines())) <= 80
    assert "training.dictionaries.NAME.sae.k = 20" in everything
    assert "vectors a step (above 0 to 4,194,304)" in " ".join(everything.split())
    assert main(["keys", "harvest.pool"]) == 0
    section = capsys.readouterr().out
    assert all("harvest.pool." in line or line.startswith("      ") for line in section.splitlines())
    assert main(["keys", "training.batch_size"]) == 0
    assert "training.batch_size = 2048" in capsys.readouterr().out
    assert main(["keys", "trainng"]) == 2
    assert "unknown key 'trainng': did you mean training" in capsys.readouterr().err


def test_keys_prints_a_json_schema_with_the_bounds(capsys):
    assert main(["keys", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$defs"]["TrainingConfig"]["properties"]["batch_size"]["maximum"] == 2**22


def test_help_all_adds_every_key_that_the_command_reads(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "--help-all"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "training.dictionaries.NAME.resampling" in shown
    assert "trainer.parallel" in shown
    assert "interpretation.max_features" not in shown


def test_a_new_key_has_to_argue_its_way_in():
    """A key that is added or removed changes `keys.txt` too: say in the commit which user needs it, and why no default is enough."""
    from jobs.config import RunConfig

    known = (Path(__file__).parent / "keys.txt").read_text().splitlines()
    assert [key.path for key in walk_keys(RunConfig)] == known


def test_the_schema_accepts_what_config_prints(capsys):
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert main(["config", "quickstart", "training.seed=3"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    jsonschema.validate(values, schema)
    assert values["training"]["seed"] == 3
    assert set(values) == set(schema["properties"])


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.configured])
def test_help_of_any_other_verb_says_what_it_does(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert VERBS[verb].summary in " ".join(capsys.readouterr().out.split())


def test_overrides_may_stand_anywhere(capsys):
    assert main(["run", "training.seed=1", "-c", "nothing.yaml", "training.seed=2"]) == 2
    assert "nothing.yaml" in capsys.readouterr().err


def test_an_unknown_verb_exits_with_2(capsys):
    with pytest.raises(SystemExit) as done:
        main(["halvest"])
    assert done.value.code == 2
    assert "halvest" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    assert main(["run", "-c", "nothing.yaml"]) == 2
    assert capsys.readouterr().err.startswith("monosem: cannot read the configuration 'nothing.yaml'")


def test_the_traceback_is_shown_to_who_asks_for_it(capsys):
    assert main(["run", "--traceback", "-c", "nothing.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err
