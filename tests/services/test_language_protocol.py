"""The client beside a server that nobody wrote for it: `transformers serve` with a tiny random Llama. Its replies are noise; the protocol is not."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sae.errors import InputError
from sae.interpretation.language_model.config import LanguageModelConfig, ReplyOptions
from sae.interpretation.language_model.exchange import Request
from sae.storage import Place
from sae.subject.tokenization import train_tokenizer
from services.language_interpreter import explain_in_words
from services.language_model import LanguageModel
from services.spending import Spending, Spent
from tests import planted_words as planted

START_SECONDS = 90
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(["What does the feature fire on? End with the line that begins with EXPLANATION:\n"] * 3, 300)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=16384, **size, **ends)).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def server_url(model_directory, tmp_path_factory):
    """`http://HOST:PORT/v1`; the test is skipped where the server does not come up."""
    home = tmp_path_factory.mktemp("home")
    (home / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        model_directory,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(home / "log.txt", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True) as process:
        try:
            if not comes_up(process, f"http://127.0.0.1:{port}/health"):
                last = (home / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
                pytest.skip(f"`transformers serve` did not come up within {START_SECONDS} s: {' '.join(last)[:300]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def comes_up(process, url):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
        time.sleep(0.2)
    return False


def asked(config, requests):
    async def run():
        async with LanguageModel(config, Spending(None, config.prices, Spent())) as model:
            await model.probe()
            return await asyncio.gather(*map(model.ask, requests))

    return asyncio.run(run())


def test_replies_come_with_their_tokens_and_are_repeatable(server_url, model_directory):
    config = LanguageModelConfig(model=model_directory, base_url=server_url)
    request = Request("detection", ({"role": "system", "content": "Answer."}, {"role": "user", "content": "What does the feature fire on?"}), 12, 4)
    first, second = asked(config, [request, request])
    assert first.text == second.text
    assert first.outcome in ("answered", "truncated")
    # 300 tokens at most, most of them bytes: the prompt has nearly as many tokens as bytes, and never more than is counted with.
    assert 10 < first.prompt_tokens <= request.most_prompt_tokens
    assert 0 < first.reply_tokens <= 12


def test_a_whole_source_is_asked_about_and_noise_is_counted_as_such(server_url, model_directory, tmp_path):
    output = Place(tmp_path)
    planted.write_source(output.child("topk"), range(7, 9))
    config = LanguageModelConfig(model=model_directory, base_url=server_url, replies=ReplyOptions(spare_tokens=8), shown_examples=4)
    summary = explain_in_words(config, 0, planted.VOCABULARY, output.url, ["topk"])["topk"]["language_model"]
    assert summary["complete"]
    assert sum(summary["outcomes"]["explain"].values()) == 2
    assert set(summary["outcomes"]["explain"]) <= {"unreadable", "truncated", "empty"}
    assert summary["prompt_tokens"] > 500
    rows = pq.read_table(pa.BufferReader(output.child("topk").get("llm_explanations.parquet"))).to_pylist()
    assert all(row["not_scored_reason"] == "there is no explanation" for row in rows)
    assert all(json.loads(row["outcomes"]) for row in rows)


def test_a_wrong_model_is_known_at_once(server_url):
    with pytest.raises(InputError, match=r"rejects requests for the model 'other/model'|does not know the model"):
        asked(LanguageModelConfig(model="other/model", base_url=server_url), [])
