"""Whatever bytes another library's files hold, an import takes no more memory than they have, calls nothing, and ends in one sentence."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from foreign import FEATURES, WIDTH, dictionary_learning_directory, drawn, linear_tensors, saelens_directory, sparsify_directory
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from sae.errors import InputError
from sae.interoperability.exchange import LAYOUTS, import_dictionary
from sae.interoperability.saelens_keys import OLDER, ORIGIN, ORIGIN_BOUND
from sae.storage import Place

MAKERS = {"saelens": saelens_directory, "dictionary_learning": dictionary_learning_directory, "sparsify": sparsify_directory}
BAD_VALUES = [
    None, True, False, 0, -1, 1, 2, 0.5, 1e300, 10**30, "", "none", "topk", "a" * 5000, "\u202e\u0000", [], [1], {}, {"k": 4}, {"a": {"b": []}},
]  # fmt: skip


def refused(directory, message, output):
    with pytest.raises(InputError, match=message) as found:
        import_dictionary(Place(directory), Place(output))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 1000
    assert Place(output).list() == []


def archive(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {entry.filename: file.read(entry) for entry in file.infolist()}


def torch_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class TestArchives:
    @pytest.fixture
    def directory(self, tmp_path):
        return dictionary_learning_directory(tmp_path / "theirs")

    def test_a_compressed_archive_is_not_expanded(self, directory, tmp_path):
        bomb = archive({"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
        assert len(bomb) < 100_000
        (directory / "ae.pt").write_bytes(bomb)
        refused(directory, "is a compressed archive", tmp_path / "out")

    def test_entries_that_share_their_bytes_are_not_read(self, directory, tmp_path):
        data = bytearray(archive({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(1000)}))
        position = data.rindex(b"PK\x01\x02")  # the size of the last entry in the directory of the archive
        data[position + 24 : position + 28] = (2**31).to_bytes(4, "little")
        (directory / "ae.pt").write_bytes(bytes(data))
        refused(directory, "is a compressed archive|is damaged", tmp_path / "out")

    def test_a_tensor_without_the_data_for_its_shape_takes_no_memory(self, directory, tmp_path):
        wide = torch.zeros(1).as_strided((2**21, 2**21), (0, 0))  # 16 TiB if it were copied
        (directory / "ae.pt").write_bytes(torch_bytes(linear_tensors() | {"encoder.weight": wide}))
        refused(directory, "its 4 bytes do not suffice", tmp_path / "out")

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"encoder.bias": torch.eye(4).to_sparse()}, "expected a plain tensor"),
            ({"encoder.bias": torch.zeros(FEATURES, dtype=torch.complex64)}, "of type torch.complex64"),
            ({"encoder.bias": torch.zeros(FEATURES, dtype=torch.float8_e4m3fn)}, "of type torch.float8_e4m3fn"),
            ({"encoder.bias": torch.zeros(FEATURES, dtype=torch.int64)}, "of type torch.int64"),
            ({"encoder.bias": torch.zeros(FEATURES, device="meta")}, "is damaged or holds more than tensors|expected a plain tensor"),
            ({"encoder.bias": [1.0]}, "is list, expected a plain tensor"),
            ({"encoder.weight": drawn(FEATURES, WIDTH, 1)}, r"encoder.weight is \[32, 8, 1\], expected a matrix"),
            ({"encoder.weight": drawn(FEATURES)}, r"encoder.weight is \[32\], expected a matrix"),
            ({"encoder.weight": torch.zeros(0, WIDTH)}, "expected a matrix and a vector"),
            ({"bias": drawn(WIDTH + 1)}, r"b_dec is \[9\]"),
            ({"bias": torch.full((WIDTH,), 1e20)}, "with which float32 overflows"),
            ({"bias": torch.full((WIDTH,), float("inf"))}, "holds NaN or infinity"),
            ({"decoder.weight": torch.zeros(WIDTH, FEATURES)}, "a direction of decoder.weight is zero"),
            ({"extra": drawn(2)}, "also has extra"),
            ({"two\nlines \x1b[31m": drawn(2)}, "also has two\ufffdlines \ufffd"),
            ({7: drawn(2)}, "also has 7"),
        ],
    )
    def test_what_is_no_plain_weight_is_named(self, directory, tmp_path, changed, message):
        (directory / "ae.pt").write_bytes(torch_bytes(linear_tensors() | changed))
        refused(directory, message, tmp_path / "out")

    def test_the_refusal_of_a_pickle_names_what_it_asks_for_and_does_not_say_how_to_obey(self, directory, tmp_path):
        entries = entries_of(torch_bytes(linear_tensors()))
        name = next(each for each in entries if each.endswith("data.pkl"))
        (directory / "ae.pt").write_bytes(archive(entries | {name: pickle.dumps(os.getcwd, protocol=2)}))
        with pytest.raises(InputError, match=r"asks for posix.getcwd") as found:
            import_dictionary(Place(directory), Place(tmp_path / "out"))
        assert "weights_only" not in str(found.value)

    @pytest.mark.parametrize("value", [[], linear_tensors()["bias"], "text", None])
    def test_a_file_of_something_else_is_refused(self, directory, tmp_path, value):
        (directory / "ae.pt").write_bytes(torch_bytes(value))
        refused(directory, "expected dict", tmp_path / "out")

    def test_a_changed_byte_of_a_weight_is_noticed(self, directory, tmp_path):
        data = bytearray((directory / "ae.pt").read_bytes())
        position = data.index(linear_tensors()["encoder.weight"].numpy().tobytes())
        data[position + 1] ^= 1
        (directory / "ae.pt").write_bytes(bytes(data))
        refused(directory, "is damaged", tmp_path / "out")


class TestFiles:
    @pytest.mark.parametrize("layout", MAKERS)
    def test_more_bytes_than_the_configuration_accounts_for_are_not_read(self, tmp_path, layout):
        directory = MAKERS[layout](tmp_path / "theirs")
        with open(directory / LAYOUTS[layout].WEIGHTS_KEY, "ab") as file:
            file.truncate(2**40)  # a hole: it takes no room on the disk
        refused(directory, r"has 1,099,511,627,776 bytes, and its configuration accounts for", tmp_path / "out")

    @pytest.mark.parametrize("layout", MAKERS)
    def test_a_configuration_larger_than_any_is_not_read(self, tmp_path, layout):
        directory = MAKERS[layout](tmp_path / "theirs")
        with open(directory / LAYOUTS[layout].CONFIG_KEY, "ab") as file:
            file.truncate(2**40)
        refused(directory, "a configuration at most", tmp_path / "out")

    @pytest.mark.parametrize("layout", MAKERS)
    def test_a_pipe_is_not_waited_for(self, tmp_path, layout):
        directory = MAKERS[layout](tmp_path / "theirs")
        (directory / LAYOUTS[layout].CONFIG_KEY).unlink()
        os.mkfifo(directory / LAYOUTS[layout].CONFIG_KEY)
        refused(directory, "is no regular file", tmp_path / "out")

    @pytest.mark.parametrize("text", ["", "[]", "null", '{"k": NaN}', "{" * 100_000, '{"a": "\\ud83d"}', '{"k": 1e999}', "\ufeff{}"])
    @pytest.mark.parametrize("layout", MAKERS)
    def test_json_is_parsed_strictly(self, tmp_path, layout, text):
        directory = MAKERS[layout](tmp_path / "theirs")
        (directory / LAYOUTS[layout].CONFIG_KEY).write_text(text)
        refused(directory, LAYOUTS[layout].CONFIG_KEY, tmp_path / "out")


def test_every_value_of_every_saelens_key_is_refused_or_changes_no_feature(tmp_path):
    """Except the two that may: whether b_dec is subtracted, and a precision."""
    x = 2 * drawn(20, WIDTH)
    directory = saelens_directory(tmp_path / "theirs")
    plain = json.loads((directory / "cfg.json").read_text())
    expected = import_dictionary(Place(directory), Place("memory://plain")).encode(x)
    accepted = []
    for key in sorted(OLDER.honoured | OLDER.bound.keys() | {"unheard_of"}):
        for number, value in enumerate(BAD_VALUES):
            (directory / "cfg.json").write_text(json.dumps(plain | {key: value}))
            try:
                form = import_dictionary(Place(directory), Place(f"memory://{key}-{number}"))
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            if key != "apply_b_dec_to_input":
                assert torch.equal(form.encode(x), expected), (key, value)
            if key not in ORIGIN | ORIGIN_BOUND.keys() | {"metadata"}:
                accepted.append((key, value))
    assert "unheard_of" not in {key for key, _ in accepted}
    assert len(accepted) < 0.2 * len(BAD_VALUES) * len(OLDER.honoured), accepted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)
KEYS = {
    "saelens": [*OLDER.honoured, *OLDER.bound, "hook_point", "activation_fn_str"],
    "sparsify": [*LAYOUTS["sparsify"].KEYS.honoured, *LAYOUTS["sparsify"].KEYS.bound],
    "dictionary_learning": [*LAYOUTS["dictionary_learning"].KEYS.honoured, *LAYOUTS["dictionary_learning"].KEYS.bound],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A whole directory of each layout, and the bytes of its files."""
    root = tmp_path_factory.mktemp("sources")
    directories = {layout: make(root / layout) for layout, make in MAKERS.items()}
    return {layout: (each, {path.name: path.read_bytes() for path in each.iterdir()}) for layout, each in directories.items()}


def attempt(directory, files):
    """Read the files; one that can be read has finite features."""
    for name, data in files.items():
        (directory / name).write_bytes(data)
    layout = directory.name
    try:
        form = LAYOUTS[layout].read(Place(directory))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert torch.isfinite(form.encode(drawn(4, form.d_in))).all()
    assert form.provenance.metadata(layout, "here")
    assert form.provenance.lines(form.is_transcoder) is not None


@pytest.mark.fuzz
@given(layout=st.sampled_from(sorted(MAKERS)), data=st.data())
def test_any_configuration_is_honoured_or_refused(sources, layout, data):
    directory, files = sources[layout]
    key = LAYOUTS[layout].CONFIG_KEY
    config = json.loads(files[key])
    settings = config["trainer"] if layout == "dictionary_learning" else config
    settings |= data.draw(st.dictionaries(st.sampled_from(sorted(KEYS[layout])), JSON, max_size=3))
    attempt(directory, files | {key: json.dumps(config).encode()})


@pytest.mark.fuzz
@given(layout=st.sampled_from(sorted(MAKERS)), data=st.data())
def test_any_damage_to_weights_is_read_or_refused(sources, layout, data):
    directory, files = sources[layout]
    key = LAYOUTS[layout].WEIGHTS_KEY
    changed = bytearray(files[key])
    head = st.integers(0, 1500) | st.integers(max(0, len(changed) - 1500), len(changed) - 1)  # where names, shapes and offsets stand
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(head)] = data.draw(st.integers(0, 255))
    attempt(directory, files | {key: bytes(changed[: data.draw(st.just(len(changed)) | st.integers(0, len(changed)))])})


@pytest.mark.fuzz
@given(data=st.data())
def test_any_pickle_in_a_whole_archive_is_read_or_refused(sources, data):
    directory, files = sources["dictionary_learning"]
    entries = entries_of(files["ae.pt"])
    name = next(each for each in entries if each.endswith("data.pkl"))
    changed = bytearray(entries[name])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    attempt(directory, files | {"ae.pt": archive(entries | {name: bytes(changed)})})


def test_weights_may_be_of_any_floating_precision(tmp_path):
    directory = saelens_directory(tmp_path / "theirs", {"dtype": "float64"})
    tensors = {"W_enc": drawn(WIDTH, FEATURES), "W_dec": drawn(FEATURES, WIDTH), "b_dec": drawn(WIDTH), "b_enc": drawn(FEATURES)}
    (directory / "sae_weights.safetensors").write_bytes(save({name: tensor.double() for name, tensor in tensors.items()}))
    assert torch.equal(import_dictionary(Place(directory), Place(tmp_path / "out")).W_enc, tensors["W_enc"])
