"""Sampling: the texts depend on the seed alone; both engines are the same model."""

import shutil

import numpy as np
import pytest
import torch
from conftest import PROMPTS, TEXTS
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from irlkit import generation
from irlkit.features import read
from irlkit.generation import ParameterError, log_probs, sample, tokenizer_of

pytestmark = pytest.mark.usefixtures("tiny_cache")
HOW = {"max_new_tokens": 8, "threads": 1, "chunk": 2}


def texts(model, **changes):
    return sample(model, PROMPTS, **{**HOW, "samples": 3, "seed": 4, **changes}).to_list()


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_the_seed_decides_the_texts(llama, engine):
    """A sampler that takes its random numbers from elsewhere cannot be repeated; one that ignores the seed repeats itself."""
    first = texts(llama, engine=engine)
    assert first == texts(llama, engine=engine)
    assert first != texts(llama, engine=engine, seed=5)
    assert len({row["completion"] for row in first}) > len(first) / 2, "samples differ among themselves"


def test_threads_do_not_change_the_texts(llama):
    """ctranslate2 seeds a thread once: with threads shared by chunks, who samples first decides the texts."""
    assert texts(llama, threads=1) == texts(llama, threads=3)


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_an_interrupted_run_goes_on_with_the_same_texts(llama, engine, tmp_path, monkeypatch):
    """A resumed run must neither draw finished chunks again nor shift the random numbers of the others."""
    whole = texts(llama, engine=engine, finished=tmp_path)
    chunks = sorted(tmp_path.rglob("*.parquet"))
    assert len(chunks) == 4
    for chunk in chunks[1::2]:
        chunk.rename(chunk.with_suffix(".partial"))
    kept = {chunk: chunk.stat().st_mtime_ns for chunk in chunks[::2]}
    assert texts(llama, engine=engine, finished=tmp_path) == whole
    assert {chunk: chunk.stat().st_mtime_ns for chunk in kept} == kept


@pytest.mark.parametrize("change", [{"seed": 5}, {"max_new_tokens": 3}, {"temperature": 0.3}, {"samples": 2}, {"engine": "transformers"}])
def test_chunks_of_other_parameters_are_not_taken_for_finished(llama, tmp_path, change):
    """A finished chunk knows its number only: a second run with another seed or length would return the first one's texts."""
    texts(llama, finished=tmp_path)
    assert texts(llama, finished=tmp_path, **change) == texts(llama, **change)


def test_chunks_of_other_prompts_are_not_taken_for_finished(llama, tmp_path):
    """As above, for a changed prompt_limit or prompt file."""
    sample(llama, PROMPTS, finished=tmp_path, **HOW)
    assert sample(llama, PROMPTS[::-1], finished=tmp_path, **HOW).to_list() == sample(llama, PROMPTS[::-1], **HOW).to_list()


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_prompts_keep_their_order(llama, engine):
    """Prompts are sorted by length inside: each completion must come back to its own prompt."""
    greedy = {"engine": engine, "temperature": 0.0, "samples": 1}
    rows = texts(llama, **greedy)
    assert [row["prompt"] for row in rows] == list(range(len(PROMPTS)))
    alone = [sample(llama, [prompt], **{**HOW, **greedy})["tokens"][0] for prompt in PROMPTS]
    assert [row["tokens"] for row in rows] == alone
    assert [(row["prompt"], row["sample"]) for row in texts(llama, engine=engine)] == [(p, s) for p in range(7) for s in range(3)]


def greedy_tokens(model, prompt, count):
    """What the network's largest logit says, one token after the other."""
    tokenizer = tokenizer_of(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = tokenizer(prompt).input_ids
    for _ in range(count):
        ids = [*ids, int(network(torch.tensor([ids])).logits[0, -1].argmax())]
    new = ids[-count:]
    return new[:new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new


@pytest.mark.parametrize("prompts", [["I", "the cat sat", "the cat sat on the mat and"], ["you are a fool", "the"], ["I", "the"]])
def test_no_prompt_leaks_into_a_completion(llama, prompts):
    """In a batch with a prompt of one token, ctranslate2 4.8 gives the ends of the longer prompts back as completions."""
    assert min(len(ids) for ids in tokenizer_of(llama)(prompts).input_ids) == 1
    drawn = sample(llama, prompts, temperature=0.0, max_new_tokens=6, threads=1)["tokens"]
    assert list(drawn) == [greedy_tokens(llama, prompt, 6) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama", "neox", "gemma"])
@pytest.mark.parametrize("engine", generation.ENGINES)
def test_temperature_zero_takes_the_largest_logit(request, name, engine):
    """Wrong padding side, wrong positions of padded prompts, or a lost temperature would show here."""
    model = request.getfixturevalue(name)
    rows = texts(model, engine=engine, temperature=0.0, samples=1)
    assert [row["tokens"] for row in rows] == [greedy_tokens(model, prompt, 8) for prompt in PROMPTS]


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_samples_follow_the_models_distribution(llama, engine):
    """top_k = 50, an engine's own temperature or repetition penalty would distort π₀, on which max-entropy IRL stands."""
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    prompt = PROMPTS[0]
    p = network(torch.tensor([tokenizer_of(llama)(prompt).input_ids])).logits[0, -1].softmax(-1).detach().numpy()
    drawn = sample(llama, [prompt], samples=4000, max_new_tokens=1, engine=engine, threads=1, seed=1)["tokens"]
    counts = np.bincount([tokens[0] if tokens else 0 for tokens in drawn], minlength=len(p))
    assert np.abs(counts / 4000 - p).sum() < 2 * np.sqrt(2 / np.pi * p * (1 - p) / 4000).sum()
    assert (counts > 0).sum() > 50


@pytest.mark.parametrize("name", ["llama", "neox", "gemma"])
def test_engines_give_the_same_log_probabilities(request, name):
    """The KL of RLHF is a difference of these: an engine's own error, or one shifted by a token, would be taken for drift."""
    model = request.getfixturevalue(name)
    rows = sample(model, PROMPTS, samples=2, **HOW)
    asked = model, [PROMPTS[i] for i in rows["prompt"]], rows["tokens"]
    exact, fast = (log_probs(*asked, engine=engine, threads=1) for engine in ("transformers", "ctranslate2"))
    assert [len(values) for values in fast] == [len(tokens) for tokens in rows["tokens"]]
    np.testing.assert_allclose(np.concatenate(fast), np.concatenate(exact), atol=1e-3)


def test_log_probabilities_are_of_the_completions_tokens(llama):
    """By hand, for one text: log softmax of the logits at the position before each token."""
    tokenizer, tokens = tokenizer_of(llama), [5, 9, 40]
    start = tokenizer(PROMPTS[1]).input_ids
    network = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    logits = network(torch.tensor([start + tokens])).logits[0].log_softmax(-1)
    by_hand = [float(logits[len(start) - 1 + t, token].detach()) for t, token in enumerate(tokens)]
    np.testing.assert_allclose(log_probs(llama, [PROMPTS[1]], [tokens], engine="transformers", threads=1)[0], by_hand, atol=1e-5)


def test_int8_is_near_float32_but_not_it(llama):
    """A precision that is silently ignored would make the book's comparison of precisions a comparison of nothing."""
    exact, rough = (np.concatenate(log_probs(llama, PROMPTS, [[4, 5, 6]] * 7, precision=p, threads=1)) for p in ("float32", "int8"))
    assert 0 < np.abs(exact - rough).mean() < 1


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_a_model_without_a_padding_token_samples(neox, engine):
    """The paper's Pythia models have none: a batch of unequal prompts must work all the same."""
    rows = texts(neox, engine=engine)
    assert len(rows) == 21 and all(len(row["tokens"]) <= 8 for row in rows)
    assert tokenizer_of(neox).pad_token == "<|end|>"


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_tokens_hold_no_end_and_no_padding(llama, engine):
    """Tokens after the end are no behaviour; with them log probabilities and lengths would be wrong."""
    drawn = sample(llama, PROMPTS[:2], samples=200, **{**HOW, "max_new_tokens": 20}, engine=engine)["tokens"]
    assert any(len(tokens) < 20 for tokens in drawn) and all(0 not in tokens for tokens in drawn)


@pytest.mark.parametrize(("prompts", "how", "message"), [
    (PROMPTS, {"engine": "vllm"}, "engine: 'vllm' is unknown; allowed: ctranslate2, transformers"),
    (PROMPTS, {"precision": "int4"}, "precision: 'int4' is unknown; allowed: int8, int16, float32"),
    ([], {}, "prompts: the list is empty"),
    (["the cat " * 30], {}, r"prompt 1 \('the cat the cat .*has .* tokens, but with 8 new ones at most 40 fit"),
])
def test_bad_requests_are_refused_in_one_sentence(llama, prompts, how, message):
    """Each of these would otherwise fail deep inside an engine, or after minutes of sampling."""
    with pytest.raises(ParameterError, match=message):
        sample(llama, prompts, **HOW, **how)


@pytest.mark.parametrize("how", [{"engine": "vllm"}, {"precision": "int4"}])
def test_scoring_refuses_the_same(llama, how):
    """`log_probs` has its own way in."""
    with pytest.raises(ParameterError):
        log_probs(llama, PROMPTS, [[4]] * 7, **how)


TEMPLATE = ("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}")


def with_tokenizer(model, folder, template=None, starts=False):
    """A copy of the model whose tokenizer has a chat template, or puts the beginning-of-text token before each text by itself."""
    shutil.copytree(model, folder)
    words = AutoTokenizer.from_pretrained(model)
    words.chat_template = template
    if starts:
        first = [("<|start|>", words.bos_token_id)]
        words.backend_tokenizer.post_processor = processors.TemplateProcessing("<|start|> $A", special_tokens=first)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("starts", [False, True])
def test_a_prompt_is_put_as_a_turn_of_a_chat(llama, tmp_path, starts):
    """A model trained on chats would go on writing the user's turn; a second beginning-of-text token is one that it never saw."""
    model = with_tokenizer(llama, tmp_path / "chat", TEMPLATE, starts)
    turns = generation.in_chat(model, PROMPTS[:2])
    assert [turn.removeprefix("<|start|>") for turn in turns] == [f"[user] {prompt} [assistant]" for prompt in PROMPTS[:2]]
    ids = tokenizer_of(model)(turns).input_ids
    assert all(row[0] == 1 and row.count(1) == 1 for row in ids)
    assert len(sample(model, turns, max_new_tokens=2, engine="transformers", threads=1)) == 2


def test_a_model_without_a_template_cannot_chat(llama):
    """A template of somebody's own making would pass for the model's."""
    with pytest.raises(ParameterError, match="chat: the tokenizer of .* has no chat template; use chat=False, or another model"):
        generation.in_chat(llama, PROMPTS)


def resized(model, folder, by):
    """A copy of the model with a vocabulary that is larger than its tokenizer's by so many tokens, or smaller."""
    network, words = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    network.resize_token_embeddings(len(words) + by)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(neox, tmp_path, engine):
    """An index out of range in an embedding: on a GPU an assertion that stops all later work and names nothing."""
    model = resized(neox, tmp_path / "small", -20)
    last = max(max(ids) for ids in tokenizer_of(neox)(TEXTS).input_ids)
    message = rf"the tokenizer of .*small gives token {last} \('.*'\), but the model's vocabulary ends at \d+: these two"
    for call in (lambda: sample(model, TEXTS, max_new_tokens=2, engine=engine, threads=1),
                 lambda: log_probs(model, TEXTS, [[5]] * len(TEXTS), engine=engine), lambda: read(model, TEXTS, [1])):
        with pytest.raises(ParameterError, match=message):
            call()


@pytest.mark.parametrize("engine", generation.ENGINES)
def test_a_vocabulary_larger_than_the_tokenizers_is_no_obstacle(neox, tmp_path, engine):
    """Pythia's is filled up to 50,304; a random model draws such tokens, which no tokenizer can name or write."""
    model = resized(neox, tmp_path / "large", 300)
    rows = sample(model, PROMPTS, samples=4, max_new_tokens=8, engine=engine, threads=1)
    drawn = max(max(tokens, default=0) for tokens in rows["tokens"])
    assert drawn >= len(tokenizer_of(model)), "this test draws none"
    scored = log_probs(model, [PROMPTS[i] for i in rows["prompt"]], rows["tokens"], engine=engine, threads=1)
    assert all(np.isfinite(values).all() for values in scored)
    other = log_probs(model, [PROMPTS[i] for i in rows["prompt"]], rows["tokens"], engine="transformers", threads=1)
    for one, two in zip(scored, other, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)
