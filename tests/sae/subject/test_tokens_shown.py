"""Tokens in a line read as the text they were made from; alone, each shows differently."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sae.subject.tokens_shown import TokenTexts, byte_token, piece_reader, shown_line

TEXTS = [
    "the cat ran to the theatre, then home",
    "机器学习很重要。机器会学习",
    "שלום עולם, שלום לכם",
    "हिन्दी में लिखा हुआ पाठ",
    "family 👨‍👩‍👧 café “quote” \\x41 ⁦end",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def llama_2():
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁thecaronmA", "th", "the", "▁the", "▁t", "at"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "t"), ("a", "t")]
    tokenizer = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=120, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False)
    )
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


def words():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" +"), "removed")
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


TOKENIZERS = {make.__name__: make() for make in (byte_level, llama_2, unigram, word_piece, words)}


def texts_of(tokenizer):
    content = json.loads(tokenizer.to_str())
    read = piece_reader(content)
    names = [tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size())]
    special = {token for token, each in tokenizer.get_added_tokens_decoder().items() if each.special}
    falls_back = content["model"].get("byte_fallback", False)
    pieces = [name.encode() if token in special else read(name) for token, name in enumerate(names)]
    return TokenTexts(pieces, special, [token for token, name in enumerate(names) if falls_back and byte_token(name)])


SHOWN = {name: texts_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}
SPECIAL = {name: set(tokenizer.get_added_tokens_decoder()) for name, tokenizer in TOKENIZERS.items()}


def reads_as_decoded(name, text):
    tokens = [token for token in TOKENIZERS[name].encode(text).ids if token not in SPECIAL[name]]
    line = shown_line(SHOWN[name], tokens)
    assert len(line) == len(tokens)
    decoded = TOKENIZERS[name].decode(tokens, skip_special_tokens=False)
    # The space that a scheme puts before a text belongs to its first token and is shown; decoding a whole text takes it away.
    assert "".join(line) in (decoded, f" {decoded}")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_line_reads_as_the_text(name, text):
    reads_as_decoded(name, text)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="⟦⟧‿\ufffd▁")))
def test_any_text_reads_as_decoded(name, text):
    reads_as_decoded(name, text)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_tokens_show_as_many_texts_and_no_replacement_character(name, data):
    tokens = data.draw(st.lists(st.integers(0, len(SHOWN[name]) + 2), max_size=30))
    line = shown_line(SHOWN[name], tokens)
    assert len(line) == len(tokens)
    assert "\ufffd" not in "".join(line)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_different_tokens_alone_show_differently_and_none_as_nothing(name):
    texts = list(SHOWN[name])
    assert len(set(texts)) == len(texts)
    assert all(texts)


def test_a_token_added_to_a_vocabulary_of_bytes_is_text():
    tokenizer = byte_level()
    tokenizer.add_tokens(["é", "  ", "机"])
    texts = texts_of(tokenizer)
    assert [texts[tokenizer.token_to_id(name)] for name in ("é", "  ", "机", "Ã", "Ġ")] == ["é", "  ", "机", "⟦0xc3⟧", " "]


def test_without_a_decoder_the_spaces_follow_from_the_way_words_are_cut():
    bare = byte_level()
    bare.decoder = None
    content = json.loads(bare.to_str())
    assert content["decoder"] is None
    assert [piece_reader(content)(name) for name in ("Ġthe", "Ã")] == [b" the", b"\xc3"]
    assert piece_reader({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}})("▁the") == b" the"
    assert piece_reader({"decoder": {"type": "BPEDecoder", "suffix": "</w>"}})("the</w>") == b"the "
    assert piece_reader({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}})("##ing") == b"ing"


def test_llama_2_keeps_the_spaces_between_words():
    texts, ids = SHOWN["llama_2"], TOKENIZERS["llama_2"].token_to_id
    assert (texts[ids("▁the")], texts[ids("the")], texts[ids("▁")]) == (" the", "the", " ")
    assert (texts[ids("A")], texts[ids("<0x41>")]) == ("A", "⟦0x41⟧")
    assert shown_line(texts, [ids("<0x41>")]) == ["A"]


def test_a_character_stands_at_the_token_that_completes_it():
    bytes_of = "机é".encode()
    texts = TokenTexts([bytes([byte]) for byte in bytes_of], ())
    assert shown_line(texts, [0, 1, 2, 3, 4]) == ["", "", "机", "", "é"]


def test_bytes_that_no_neighbour_completes_are_numbers_and_differ_from_text_that_looks_like_them():
    texts = TokenTexts([b"\xe6", b"\x9c", b"a", b"\\xe6", "⟦0xe6⟧".encode(), b"\xba\xe5", b"\x99", b"\xa8"], ())
    assert shown_line(texts, [1, 0, 2]) == ["⟦0x9c⟧", "⟦0xe6⟧", "a"]
    assert shown_line(texts, [3]) == ["\\xe6"]
    assert shown_line(texts, [4]) == ["⟦U+27E6⟧0xe6⟦U+27E7⟧"]
    assert shown_line(texts, [0, 1, 5, 6, 7]) == ["", "", "机", "", "器"]


def test_special_tokens_differ_from_text_that_spells_them():
    texts = TokenTexts([b"<s>", b"<s>", b"\xe6"], {0})
    assert shown_line(texts, [0, 1, 2, 0, 9]) == ["⟦<s>⟧", "<s>", "⟦0xe6⟧", "⟦<s>⟧", "⟦9⟧"]
