"""An architecture of one's own goes the way of the built-in ones, without a change of this package."""

import sys
from typing import Literal

import pytest
import torch
from pydantic import Field

import sae
from sae.architectures import config as configs
from sae.architectures.config import TopKConfig
from sae.architectures.registry import ARCHITECTURES, build_dictionary
from sae.architectures.topk import TopKDictionary
from sae.errors import ConfigError, InputError
from sae.interoperability.exchange import export_dictionary
from sae.storage import Place
from sae.training.config import DictionaryConfig, TrainingConfig

VECTORS = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))


class OwnConfig(TopKConfig):
    architecture: Literal["own"] = "own"
    weight: float = Field(1.0, description="of something")


class OwnDictionary(TopKDictionary):
    config: OwnConfig


@pytest.fixture
def unregistered(monkeypatch):
    monkeypatch.setattr(configs, "REGISTERED", {})
    before = dict(ARCHITECTURES)
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(before)


@pytest.fixture
def own(unregistered, monkeypatch):
    registry = sys.modules["sae.architectures.registry"]
    monkeypatch.setattr(registry, "REGISTERED", configs.REGISTERED)
    sae.register("own", OwnConfig, OwnDictionary)


def test_it_is_trained_saved_and_loaded(own, tmp_path):
    dictionary = sae.train(VECTORS, OwnConfig(d_sae=12, k=2, weight=0.5), batch_size=100)
    sae.save_dictionary(tmp_path, dictionary)
    loaded = sae.load_dictionary(tmp_path)
    assert type(loaded) is OwnDictionary
    assert loaded.config.weight == 0.5
    assert torch.equal(loaded.encode(VECTORS), dictionary.encode(VECTORS))


def test_a_configuration_file_names_it(own):
    entry = {"name": "mine", "sae": {"architecture": "own", "d_sae": 12, "k": 2, "weight": 0.25}}
    parsed = TrainingConfig.parse({"dictionaries": [entry]})
    assert parsed.dictionaries[0].sae == OwnConfig(d_sae=12, k=2, weight=0.25)
    assert TrainingConfig.parse(parsed.model_dump()) == parsed, "what is written into config.json is read again"
    assert TrainingConfig.model_validate_json(parsed.model_dump_json()) == parsed


def test_its_mistakes_are_named_with_their_place(own):
    with pytest.raises(ConfigError, match=r"sae: unknown key 'wight': did you mean weight"):
        DictionaryConfig.parse({"name": "mine", "sae": {"architecture": "own", "wight": 1.0}})


def test_other_libraries_layouts_refuse_it_with_the_reason(own, tmp_path):
    sae.save_dictionary(tmp_path / "own", build_dictionary(OwnConfig(d_sae=12, k=2), d_in=6))
    with pytest.raises(InputError, match="the architecture 'own' has no counterpart in other libraries' layouts"):
        export_dictionary(Place(tmp_path / "own"), "saelens", Place(tmp_path / "out"))


def test_where_it_is_not_registered_loading_says_what_to_do(own, tmp_path, monkeypatch):
    sae.save_dictionary(tmp_path, build_dictionary(OwnConfig(d_sae=12, k=2), d_in=6))
    configs.REGISTERED.clear()
    del ARCHITECTURES["own"]
    with pytest.raises(ConfigError, match=r"architecture 'own', which is not known here\. Import the module that calls sae\.register\('own', …\)"):
        sae.load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("name", "config", "dictionary", "match"),
    [
        ("topk", OwnConfig, OwnDictionary, "is built in"),
        ("other", OwnConfig, OwnDictionary, "must be a subclass of sae.config.Config"),
        ("own", dict, OwnDictionary, "must be a subclass of sae.config.Config"),
        ("own", OwnConfig, torch.nn.Linear, "must be a subclass of sae.architectures.base.Dictionary"),
    ],
)
def test_classes_that_do_not_fit_are_refused(unregistered, name, config, dictionary, match):
    with pytest.raises(ConfigError, match=match):
        sae.register(name, config, dictionary)


def test_an_installed_package_registers_it_by_an_entry_point(unregistered, tmp_path, monkeypatch):
    registry = sys.modules["sae.architectures.registry"]
    monkeypatch.setattr(registry, "REGISTERED", configs.REGISTERED)
    (tmp_path / "own_package.py").write_text(
        "import sae\nfrom typing import Literal\nfrom sae.architectures.config import TopKConfig\nfrom sae.architectures.topk import TopKDictionary\n"
        "class C(TopKConfig):\n    architecture: Literal['packaged'] = 'packaged'\n"
        "class D(TopKDictionary):\n    config: C\nsae.register('packaged', C, D)\n"
    )
    metadata = tmp_path / "own_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[monosem.architectures]\npackaged = own_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    configs.load_installed.cache_clear()
    parsed = DictionaryConfig.parse({"name": "mine", "sae": {"architecture": "packaged", "d_sae": 12, "k": 2}})
    assert parsed.sae.architecture == "packaged"
    assert type(build_dictionary(parsed.sae, 6)).__name__ == "D"
