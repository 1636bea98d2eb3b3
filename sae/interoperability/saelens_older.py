"""Configurations of SAELens before release 6 in the terms of release 6, as its `handle_pre_6_0_config` translates them.

Where that function drops what its own older releases computed (tanh-ReLU, contradicting rules), the configuration is refused.
"""

import re
from typing import Any

from sae.errors import InputError
from sae.interoperability.configuration_keys import Bound, KeyList
from sae.interoperability.reading import refuse_unless, require, shown
from sae.interoperability.saelens_keys import OLDER

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "hook_point_layer": "hook_layer",
    "activation_fn_str": "activation_fn",
}
_ARGUMENTS = KeyList(honoured=frozenset({"k"}), bound={"signed": Bound((False, None), "Features of both signs have no counterpart here")})


def is_version_6(config: dict[str, Any], where: str) -> bool:
    """Say whether SAELens takes a configuration for one of release 6: by its version, at the top level or in the metadata.

    Raises:
        InputError: the version is not one.
    """
    metadata = config.get("metadata")
    version = config.get("sae_lens_version") or (metadata.get("sae_lens_version") if isinstance(metadata, dict) else None)
    if not version:
        return False
    match = re.match(r"(\d{1,4})\.\d", version) if isinstance(version, str) else None
    if match is None:
        raise InputError(f"{where}: sae_lens_version is {shown(version)}, expected a version such as '6.54.12'. Correct the configuration")
    return int(match[1]) >= 6


def as_version_6(config: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An older configuration in the terms of release 6, and its notes on the training data.

    Raises:
        InputError: an unknown key, or a setting that has no counterpart.
    """
    renamed: dict[str, Any] = {}
    for key, value in config.items():
        name = _RENAMED.get(key, key)
        refuse_unless(
            name not in renamed or renamed[name] == value, f"{where}: {name} is given twice, as {shown(renamed.get(name))} and {shown(value)}"
        )
        renamed[name] = value
    notes = OLDER.check(renamed, where)
    if not renamed.get("model_from_pretrained_kwargs"):
        notes["model_weights"] = "processing not stated; releases before 3.22 trained on centred and folded weights"
    return renamed | _rule(renamed, where), notes


def _rule(config: dict[str, Any], where: str) -> dict[str, Any]:
    architecture, function = config.get("architecture", "standard"), config.get("activation_fn")
    arguments = require(config.get("activation_fn_kwargs") or {}, dict, where, "activation_fn_kwargs")
    refuse_unless(
        function in (None, "relu", "topk"), f"{where}: activation_fn is {shown(function)}, which has no counterpart here. Allowed: 'relu', 'topk'"
    )
    if function != "topk" and architecture != "topk":
        return {"architecture": architecture}
    refuse_unless(
        architecture in ("standard", "topk") and function != "relu",
        f"{where}: architecture {shown(architecture)} and activation_fn {shown(function)} name two rules. Correct one of the two",
    )
    _ARGUMENTS.check(arguments, f"{where}, activation_fn_kwargs")
    given = [value for value in (arguments.get("k"), config.get("k")) if value is not None]
    refuse_unless(len(given) > 0, f"{where}: k is missing, and TopK needs it (in activation_fn_kwargs). Add it")
    refuse_unless(len(set(map(str, given))) == 1, f"{where}: k is given twice, as {' and '.join(map(shown, given))}. Correct one of the two")
    return {"architecture": "topk", "k": given[0]}
