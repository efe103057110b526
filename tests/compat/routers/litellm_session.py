"""A session with the router of `litellm`, which the proxy of litellm uses too. The interpreter of
the client environment runs this file: `python … BUSY SMALL LARGE KEY`, with the URLs of three
servers. `BUSY` rejects every request with status 429. `SMALL` accepts only short prompts.
"""

import os
import sys

# litellm reads this variable at import. With it, litellm does not fetch its price list.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm import Router

SHORT = [{"role": "user", "content": "fox"}]
LONG = [{"role": "user", "content": "fox " * 200}]
ERRORS = {
    "busy": litellm.RateLimitError,
    "small": litellm.ContextWindowExceededError,
    "closed": litellm.AuthenticationError,
}


def deployments(provider: str, urls: dict[str, str], key: str) -> list[dict]:
    """One deployment per server. The deployment `closed` has a wrong key."""
    path = "/v1" if provider == "openai" else ""
    return [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"{provider}/tgi",
                "api_base": f"{urls[server]}{path}",
                "api_key": key if name != "closed" else "wrong",
                "max_tokens": 3,
                "max_retries": 0,
            },
            "model_info": {"id": name},
        }
        for name, server in {**{n: n for n in urls}, "closed": "large"}.items()
    ]


def check_errors(models: list[dict]) -> None:
    """Without a fallback, the router raises the error that belongs to the status."""
    for name, error in ERRORS.items():
        for stream in (False, True):
            router = Router(model_list=models, num_retries=0)
            try:
                router.completion(model=name, messages=LONG, stream=stream)
            except error:
                continue
            raise AssertionError(f"`{name}` did not raise {error.__name__}")


def check_fallbacks(models: list[dict]) -> None:
    """With a fallback, the request is sent to the next server."""
    fallbacks = [{"busy": ["large"]}, {"closed": ["large"]}]
    router = Router(
        model_list=models,
        num_retries=0,
        fallbacks=fallbacks,
        context_window_fallbacks=[{"small": ["large"]}],
    )
    for name in ERRORS:
        response = router.completion(model=name, messages=LONG)
        assert response.usage.completion_tokens == 3, response
        assert response._hidden_params["model_id"] == "large", response._hidden_params
        chunks = list(router.completion(model=name, messages=LONG, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == response.choices[0].message.content, chunks
    # A fallback is used only if it is needed.
    response = router.completion(model="small", messages=SHORT)
    assert response._hidden_params["model_id"] == "small", response._hidden_params


def main() -> None:
    *urls, key = sys.argv[1:]
    for provider in ("openai", "anthropic"):
        models = deployments(
            provider, dict(zip(("busy", "small", "large"), urls, strict=True)), key
        )
        check_errors(models)
        check_fallbacks(models)
    print("all checks passed")


main()
