"""The command line teaches: every verb has help, and mistakes are one line."""

import pytest

from jobs.cli import VERBS, main


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert "examples:" in shown


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.configured])
def test_help_of_a_configured_verb_lists_every_key_with_its_default(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "training.batch_size = 2048" in shown
    assert "training.dictionaries.NAME.sae.k = 20" in shown
    assert "vectors a step" in shown


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.configured])
def test_help_of_any_other_verb_says_what_it_does(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert VERBS[verb].summary in " ".join(capsys.readouterr().out.split())


def test_overrides_may_stand_anywhere_and_what_else_is_unknown_is_refused(capsys):
    assert main(["run", "training.seed=1", "-c", "nothing.yaml", "training.seed=2"]) == 2
    assert "nothing.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["show", "somewhere", "training.seed=2"])
    assert done.value.code == 2
    assert "unrecognized arguments: training.seed=2" in capsys.readouterr().err


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
