"""OpenAI's client for Python asks, streams, lists models and understands errors: `python openai_python.py URL`."""

import json
import sys
import urllib.request

import openai

url = sys.argv[1]
puzzle = json.load(urllib.request.urlopen(f"{url}/api/puzzle?seed=7"))
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
content = [
    {"type": "image_url", "image_url": {"url": puzzle["image"]}},
    {"type": "text", "text": puzzle["question"]},
]
asked = {
    "model": "dominoes",
    "messages": [{"role": "user", "content": content}],
    "extra_body": {"ivtlr": {"choices": puzzle["choices"]}},
}

answer = client.chat.completions.create(**asked)
text = answer.choices[0].message.content
print("answer:", text)
assert text.endswith(f"the answer is {puzzle['answer']}"), text
assert len(answer.choices[0].ivtlr["steps"]) == 3
assert answer.usage.completion_tokens_details.latent_steps == 3

chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
assert "".join(pieces) == text, pieces
assert chunks[-1].usage.total_tokens == answer.usage.total_tokens

scored = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
assert all(len(token.top_logprobs) == 2 for token in scored.choices[0].logprobs.content)
several = client.chat.completions.create(**asked, n=2, temperature=1.0, seed=1, stop=["answer"])
assert [choice.index for choice in several.choices] == [0, 1]

assert [model.id for model in client.models.list()] == ["dominoes"]
for wrong, error in (({"model": "gpt-4"}, openai.NotFoundError), ({"temperature": 9}, openai.BadRequestError)):
    try:
        client.chat.completions.create(**{**asked, **wrong})
    except error as refused:
        print("refused:", refused.message)
    else:
        raise AssertionError(wrong)
print("openai", openai.__version__)
