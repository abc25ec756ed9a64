"""Batched sampling of completions: one function, two engines.

`sample` draws K completions of each prompt from a causal language model. The prompts are sorted by length and cut
into chunks; a chunk has its own seed and, where a folder for finished chunks is given, its own file, so that a run
that was interrupted goes on where it was and the texts do not depend on how often that happened.
"""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ctranslate2
import datasets
import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from irlkit import assets
from irlkit.machine import at_once, device, in_memory
from irlkit.parameters import ParameterError, check_context, check_vocabulary
from irlkit.progress import bar

ENGINES = ("ctranslate2", "transformers")
PRECISIONS = ("int8", "int16", "float32")
SEQUENCES = 48  # drawn at once by ctranslate2: with fewer, much of the time goes into reading the weights
_SEEDING = threading.Lock()


def tokenizer_of(model):
    """The tokenizer of the model in folder `model`, padding on the left, with a padding token in any case."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def network_of(model, kind=AutoModelForCausalLM):
    """The model in folder `model` in float32, to be used and not trained, where models run."""
    return kind.from_pretrained(model, dtype=torch.float32).eval().to(device())


def named_blocks(network):
    """(name, torch.nn.ModuleList) of a network's blocks: the list that is as long as its configuration says."""
    count = network.config.num_hidden_layers
    return next((name, module) for name, module in network.named_modules()
                if isinstance(module, torch.nn.ModuleList) and len(module) == count)


def checked_ids(model, tokenizer, texts, **how):
    """Token ids of each text, all of which the model in folder `model` has; ParameterError if not."""
    ids = tokenizer(list(texts), **how).input_ids
    size = AutoConfig.from_pretrained(model).get_text_config().vocab_size
    check_vocabulary([*ids, [tokenizer.pad_token_id]], size, tokenizer, model)
    return ids


def in_chat(model, prompts):
    """The prompts as a user's turn of a chat, put by the chat template of the model in folder `model`; what comes next is the answer.

    Raises ParameterError where its tokenizer has no template.
    """
    tokenizer = tokenizer_of(model)
    if not tokenizer.chat_template:
        raise ParameterError(f"chat: the tokenizer of {model} has no chat template; use chat=False, or another model")
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    starts_itself = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return [text.removeprefix(tokenizer.bos_token) if starts_itself else text for text in texts]


def sample(model, prompts, *, samples=1, max_new_tokens=24, temperature=1.0, seed=0, engine="ctranslate2",
           precision="float32", threads=None, chunk=64, finished=None, description="sampling"):
    """Draw `samples` completions of each prompt from the model in folder `model`.

    Returns a datasets.Dataset in the order of `prompts`, with the columns `prompt` (int: position in `prompts`),
    `sample` (int: 0 to samples − 1), `completion` (str) and `tokens` (list of int, without the end token).
    `temperature` 0 is greedy decoding. `finished` names a folder that keeps the finished chunks of each such call.
    `threads` is the number of chunks sampled side by side by ctranslate2, each on one core, or torch's number of threads.
    Raises ParameterError for an unknown engine or precision, no prompt, or a prompt longer than the context.
    """
    _check(engine, precision)
    tokenizer = tokenizer_of(model)
    if not prompts:
        raise ParameterError("prompts: the list is empty; at least one prompt is needed")
    check_context(prompts, tokenizer, AutoConfig.from_pretrained(model).max_position_embeddings, max_new_tokens)
    chunk = at_once(chunk)
    chunks = _chunks([len(ids) for ids in checked_ids(model, tokenizer, prompts)], chunk)
    threads = threads or default_threads()
    draw = _ctranslate2(model, precision) if engine == "ctranslate2" else _transformers(model, tokenizer, threads)
    draw = partial(draw, tokenizer=tokenizer, samples=samples, max_new_tokens=max_new_tokens, temperature=temperature)

    key = fingerprint(model, prompts, samples, max_new_tokens, temperature, seed, engine, precision, chunk)

    def one(number):
        kept = Path(finished) / key / f"{number:04d}.parquet" if finished else None
        if kept is not None and kept.exists():
            return datasets.Dataset.from_parquet(str(kept)).to_list()
        texts = [prompts[i] for i in chunks[number]]
        with in_memory(chunk, description):
            drawn = draw(texts, seed=np.random.SeedSequence([seed, number]).generate_state(1)[0])
        rows = [row for i, tokens in zip(chunks[number], drawn, strict=True) for row in _rows(int(i), tokens, tokenizer)]
        if kept is not None:
            _keep(rows, kept)
        return rows

    workers = threads if engine == "ctranslate2" else 1
    with ThreadPoolExecutor(workers) as pool:
        done = list(bar(pool.map(one, range(len(chunks))), total=len(chunks), description=description, unit="chunk"))
    rows = sorted((row for rows in done for row in rows), key=lambda row: (row["prompt"], row["sample"]))
    return datasets.Dataset.from_list(rows)


def fingerprint(model, *values):
    """A name for what a model makes of given values (anything JSON holds): of its folder and weight files, and of them.

    Another training at the same place is another model: the files' size and time of change are part of the name.
    """
    files = sorted(file for pattern in ("*.safetensors", "*.bin") for file in Path(model).glob(pattern))
    state = [str(model), [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
    return hashlib.sha256(json.dumps([state, values]).encode()).hexdigest()[:16]


def _chunks(lengths, size):
    """Positions of prompts in order of length, at most `size` a chunk; prompts of one token stand apart.

    In a batch where one prompt has one token and another has more, ctranslate2 4.8 returns the rest of the longer
    prompts as part of their completions.
    """
    order = np.argsort(lengths, kind="stable")
    parts = np.split(order, [np.sum(np.array(lengths) <= 1)])
    return [part[start:start + size] for part in parts for start in range(0, len(part), size)]


def log_probs(model, prompts, completions, *, engine="ctranslate2", precision="float32", threads=None):
    """Log probabilities (nats) of given tokens: for each completion (list of token ids) after its prompt, an array [T].

    `precision` is ctranslate2's; the transformers engine computes in float32.
    """
    _check(engine, precision)
    tokenizer = tokenizer_of(model)
    starts = [ids or [tokenizer.bos_token_id] for ids in checked_ids(model, tokenizer, prompts)]
    sequences = [start + list(tokens) for start, tokens in zip(starts, completions, strict=True)]
    score = _score_ctranslate2 if engine == "ctranslate2" else _score_transformers
    scored = score(model, sequences, precision, threads or default_threads(), tokenizer)
    return [np.array(values[len(start) - 1:]) for start, values in zip(starts, scored, strict=True)]


def default_threads():
    """Number of threads: OMP_NUM_THREADS where it is set, else the number of cores."""
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))


def _check(engine, precision):
    if engine not in ENGINES:
        raise ParameterError(f"engine: '{engine}' is unknown; allowed: {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ParameterError(f"precision: '{precision}' is unknown; allowed: {', '.join(PRECISIONS)}")


def _score_ctranslate2(model, sequences, precision, threads, tokenizer):
    folder = str(assets.ctranslate2_model(model, precision))
    generator = ctranslate2.Generator(folder, device="auto", compute_type=precision, inter_threads=threads, intra_threads=1)
    words = json.loads((Path(folder) / "vocabulary.json").read_text(encoding="utf-8"))  # ids beyond the tokenizer's have names there, too
    waiting = [None] * len(sequences)
    for _, same in pd.Series(sequences).groupby([len(ids) for ids in sequences]):  # ctranslate2 4.8 cannot score Gemma on a padded batch
        tokens = [[words[i] for i in ids] for ids in same]
        for place, result in zip(same.index, generator.score_batch(tokens, max_batch_size=16, asynchronous=True), strict=True):
            waiting[place] = result
    return [result.result().log_probs for result in waiting]


def _score_transformers(model, sequences, precision, threads, tokenizer):
    torch.set_num_threads(threads)
    network = network_of(model)
    scored = []
    for ids in sequences:
        with torch.inference_mode():
            logits = network(torch.tensor([ids], device=device())).logits[0, :-1].cpu()
        scored.append(logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
    return scored


def _rows(prompt, completions, tokenizer):
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    return [{"prompt": prompt, "sample": number, "completion": text, "tokens": list(tokens)}
            for number, (text, tokens) in enumerate(zip(texts, completions, strict=True))]


def _keep(rows, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_suffix(".partial")
    datasets.Dataset.from_list(rows).to_parquet(str(partial_file))
    os.replace(partial_file, path)


def _ctranslate2(model, precision):
    folder = str(assets.ctranslate2_model(model, precision))

    def draw(prompts, *, tokenizer, samples, max_new_tokens, temperature, seed):
        generator = _seeded_generator(folder, precision, int(seed))
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(prompts).input_ids]
        results = generator.generate_batch(
            tokens, num_hypotheses=samples, max_length=max_new_tokens, max_batch_size=max(8, SEQUENCES // samples),
            include_prompt_in_result=False, sampling_topk=0 if temperature else 1, sampling_temperature=temperature or 1.0,
            end_token=[tokenizer.eos_token_id])
        return [result.sequences_ids for result in results]

    return draw


def _seeded_generator(folder, precision, seed):
    """A generator whose one worker thread takes its random numbers from `seed`: ctranslate2 seeds a thread once."""
    with _SEEDING:
        ctranslate2.set_random_seed(seed)
        os.utime(folder)  # it is in use: the cache must not remove it
        generator = ctranslate2.Generator(folder, device="auto", compute_type=precision, inter_threads=1, intra_threads=1)
        generator.generate_batch([["a"]], max_length=1, sampling_topk=0)
        return generator


def _transformers(model, tokenizer, threads):
    torch.set_num_threads(threads)
    network = network_of(model)

    def draw(prompts, *, tokenizer, samples, max_new_tokens, temperature, seed):
        torch.manual_seed(int(seed))
        batch = tokenizer(prompts, return_tensors="pt", padding=True).to(device())
        choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        with torch.inference_mode():
            output = network.generate(**batch, max_new_tokens=max_new_tokens, num_return_sequences=samples,
                                      pad_token_id=tokenizer.pad_token_id, **choice)
        ids = output[:, batch.input_ids.shape[1]:].tolist()
        ids = [_until(row, tokenizer.eos_token_id) for row in ids]
        return [ids[start:start + samples] for start in range(0, len(ids), samples)]

    return draw


def _until(ids, end):
    return ids[:ids.index(end)] if end in ids else ids
