"""Errors travel between processes as themselves, and each knows its exit code."""

import pickle

import pytest

from sae import errors


def below(error):
    return [error, *(child for sub in error.__subclasses__() for child in below(sub))]


@pytest.mark.parametrize("error", below(errors.MonosemError))
def test_an_error_survives_the_trip_to_another_process(error):
    copy = pickle.loads(pickle.dumps(error("found this, expected that")))
    assert type(copy) is error
    assert str(copy) == "found this, expected that"


def test_users_mistakes_exit_with_2_and_failures_with_1():
    assert {error.exit_code for error in below(errors.UserError)} == {2}
    assert {error.exit_code for error in below(errors.FailureError)} == {1}


@pytest.mark.parametrize("error", below(errors.MonosemError))
def test_the_drawing_in_the_module_shows_every_error(error):
    assert error is errors.MonosemError or f"── {error.__name__}" in errors.__doc__
