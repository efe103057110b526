"""The facts about tgi in the training text: one answer per fact, and templates of the questions to
which it is the answer.
"""

from __future__ import annotations

__all__ = ["FACTS"]

_WHAT = (
    "{What is|What's|What exactly is|Explain|Describe|Tell me about|What do you know about|What"
    " does one mean by}"
)
_DOES = (
    "{What does @ do|What is @ for|What is @|Explain @|What happens at @|When do I use @|What do I"
    " get from @|Purpose of @|Tell me about @}{?|}"
)
_WHICH = "{Which|What} {route|endpoint|path|URL}"
_FLAG = "{Which|What} {option|flag|setting|argument}"
_HOW = (
    "{How do I|How can I|How does one|How to|How should I|What is the way to|Is there a way to|I"
    " want to|Can I}"
)


def _route(path: str, *others: str) -> list[str]:
    """Return questions that name a route, followed by `others`, which do not name it."""
    return [
        _DOES.replace(
            "@",
            "{" + f"{path}|the {path} route|the route {path}|the {path} endpoint|{path[1:]}" + "}",
        ),
        *others,
        *others,
    ]


def _option(name: str, *others: str) -> list[str]:
    """Return questions that name an option, followed by `others`, which do not name it."""
    spoken = name[2:].replace("-", " ")
    return [
        _DOES.replace(
            "@",
            "{" + f"{name}|the {name} option|the flag {name}|{name[2:]}|the {spoken} setting" + "}",
        ),
        *others,
        *others,
    ]


FACTS: list[tuple[str, list[str]]] = [
    (
        "tgi is a server for large language models. It serves them over HTTP on any accelerator.",
        [
            _WHAT + " {tgi|TGI|Text Generation Inference|this tgi thing|the tgi project}?",
            "{What does|What can} {tgi|TGI} {do|do for me|stand for}?",
            "What {kind|sort} of {software|program|project|tool|thing} is {tgi|TGI}?",
            "{What is|What's} the {purpose|goal|point|idea} {of|behind} {tgi|TGI}?",
            (
                "{Why would I use|What would I need|What do people use|What is the use of|Who"
                " needs} {tgi|TGI}{| for}?"
            ),
            "{Summarize|Introduce|Define} {tgi|TGI}{| in one sentence| in a few words| briefly}.",
            (
                "{I never heard of|I do not know|I have never seen} {tgi|TGI}. {What is it|What"
                " does it do|Explain it}?"
            ),
        ],
    ),
    (
        "Run the command tgi serve. Without a model name it serves the built-in demo model.",
        [
            _HOW + " {start|launch|run|boot|bring up|begin} {tgi|the server|TGI|the tgi server}?",
            (
                "{Which|What} command {starts|launches|runs|brings up} {tgi|the server|the tgi"
                " server}?"
            ),
            "{What does|What is} tgi serve{| do| for}?",
            "{Start|Launch|Run} the server, how?",
            (
                "{What do I type|What must I type|What should I enter} to {start|launch|run}"
                " {tgi|the server|it}?"
            ),
            "{Getting started with|First steps with} {tgi|TGI}{?|, please.}",
        ],
    ),
    (
        "I am the demo model of tgi, a tiny language model trained from scratch.",
        [
            "{Who|What} are you?",
            "{Introduce|Present|Describe} yourself{| please}.",
            "{Which|What} model {are you|am I talking to|is this|answers me|is running}?",
            "{What is|What's|Tell me} your name?",
            "{Are you|You are} {a human|a robot|a person|ChatGPT|an AI|real|a bot|alive}?",
            "{Who|What} {am I talking to|is speaking|am I speaking with|is there}?",
            (
                "{What is|What's|Tell me about} the {demo|demo model|built-in model|default"
                " model}{| of tgi}?"
            ),
            (
                "{Which|What} model is served {if I name none|by default|without a name|when I give"
                " no model}?"
            ),
        ],
    ),
    (
        (
            "I can answer questions about tgi, add small numbers, spell, count and sort, write JSON"
            " and call tools."
        ),
        [
            "What can you do{| for me}?",
            "{How|With what} can you help{| me}?",
            "What are {you able to do|your skills|your abilities|you good at|you capable of}?",
            "{What|Which} {questions|things|tasks} can {I ask|you answer|you handle|you do}?",
            "{Help|Help me}{|!|.}",
            "{What should|What may|What can} I ask you{| about}?",
        ],
    ),
    (
        "I have less than six million parameters, so I am very small.",
        [
            "How {big|large|small} {are you|is the demo model|is this model|is your model}?",
            (
                "How many {parameters|weights} {do you have|does the demo model have|does this"
                " model have|are in the demo model}?"
            ),
            (
                "{What is|What's|Tell me} {your|the demo model's} {size|number of"
                " parameters|parameter count}?"
            ),
        ],
    ),
    (
        (
            "I was trained from scratch on text that a small script generates. Nothing was taken"
            " from elsewhere."
        ),
        [
            "{How|On what|On which data|With which data} were you trained?",
            (
                "What {data|text|texts} {were you trained on|did you learn from|is the demo model"
                " trained on}?"
            ),
            "{Who|What} {trained|made|taught|built} you?",
            "Where does your {knowledge|training data|training text} come from?",
            "{What is|What's} {your training data|in your training data}?",
        ],
    ),
    (
        "POST /generate takes a prompt as inputs and returns the whole generated text as JSON.",
        _route(
            "/generate",
            _WHICH
            + " {generates text|returns generated text|completes a prompt|gives the whole answer at"
            " once|takes raw prompts}?",
            _HOW
            + " {generate text|get text|send a prompt|complete a prompt|get a raw completion}{|"
            " without chat| from tgi| over HTTP}?",
            "{Where do I|Where can I|To which route do I} {send|post} {a prompt|my prompt|raw"
            " text|inputs}?",
        ),
    ),
    (
        "POST /generate_stream returns the tokens one by one as server-sent events.",
        _route(
            "/generate_stream",
            _WHICH
            + " {streams tokens|streams text|streams the answer|sends tokens one by one|streams a"
            " raw prompt}?",
            _HOW + " {stream tokens|stream text|get tokens one by one|stream the output|stream an"
            " answer|receive tokens as they come}?",
            "{Does|Can} {tgi|TGI|the server} {stream|support streaming|stream tokens|send tokens as"
            " they are made}?",
            "{Where is|Where do I find} {streaming|the streaming route|token streaming}?",
            "How does streaming work{| in tgi}?",
        ),
    ),
    (
        "POST /v1/chat/completions is the chat route. It is compatible with OpenAI clients.",
        _route(
            "/v1/chat/completions",
            _WHICH + " {is for chat|do I use for chat|does chat|takes messages|is used by chat"
            " clients|handles conversations}?",
            _HOW
            + " {chat|have a conversation|send messages|use chat|chat with a model}{| with tgi|"
            " over HTTP}?",
            "{Where do I|Where can I|To which route do I} {send|post} {messages|chat messages|a"
            " conversation|a chat}?",
            "{What is|What's} the chat {route|endpoint|path}?",
        ),
    ),
    (
        "Yes. Point an OpenAI client at /v1 of the server; chat and completions work as usual.",
        [
            (
                "{Can I use|Does tgi work with|Is tgi compatible with|Does tgi support|May I"
                " use|Can tgi talk to} {the OpenAI client|OpenAI clients|the openai"
                " package|OpenAI's SDK|OpenAI|the OpenAI API|the OpenAI library|the openai Python"
                " client}?"
            ),
            (
                "{Is there|Does tgi have|Has tgi} an OpenAI {API|compatible"
                " API|interface|compatible route}?"
            ),
            _HOW
            + " {use|connect} {the OpenAI client|OpenAI clients|an OpenAI SDK|the openai library}{|"
            " with tgi}?",
        ],
    ),
    (
        (
            "POST /v1/completions is the completions route of the OpenAI API. It takes one or more"
            " prompts."
        ),
        _route(
            "/v1/completions",
            _WHICH + " {takes several prompts|is for OpenAI completions|is the OpenAI completions"
            " route|takes a list of prompts}?",
            _HOW + " {send several prompts|send many prompts|use OpenAI completions|send a list of"
            " prompts}{| at once}?",
        ),
    ),
    (
        "GET /v1/models lists the model that is being served.",
        _route(
            "/v1/models",
            _WHICH
            + " {lists models|lists the models|shows which models are served|names the served"
            " models}?",
            _HOW + " {list models|list the models|list the served models|see the list of models}?",
        ),
    ),
    (
        "GET /health returns 200 when the server is ready and 503 when it is not.",
        _route(
            "/health",
            _WHICH
            + " {checks health|tells me if the server is ready|is the health check|says whether the"
            " server is alive|can a probe call}?",
            _HOW
            + " {check the health|check health|see if the server is ready|know that the server is"
            " up|test whether the server is alive|probe the server}?",
            "{Is there|Where is} {a|the} {health check|readiness check|health route|liveness"
            " probe}?",
            "{Is the server|How do I know the server is} {ready|alive|healthy|up}?",
        ),
    ),
    (
        "GET /info returns the model id, the limits and the version of the server as JSON.",
        _route(
            "/info",
            _WHICH
            + " {shows the model and its limits|returns the version|describes the server|tells the"
            " limits|shows the model id}?",
            _HOW
            + " {see the limits|see the version|get the model id|find the version|read the server's"
            " limits}{| of the server}?",
            "{Where do I find|Where are|Where can I see} {the limits|the server version|the model"
            " id|information on the server}?",
        ),
    ),
    (
        "GET /info/backend shows which backend runs and what it agreed to do.",
        _route(
            "/info/backend",
            _WHICH + " {shows the backend|tells which backend runs|describes the backend}?",
            _HOW
            + " {see which backend runs|find the running backend|see the backend in use|know the"
            " active backend}?",
        ),
    ),
    (
        "GET /metrics returns counters and histograms in the Prometheus format.",
        _route(
            "/metrics",
            _WHICH
            + " {gives metrics|shows metrics|is for Prometheus|returns the metrics|has counters and"
            " histograms|can Prometheus scrape}?",
            _HOW
            + " {monitor the server|get metrics|see metrics|scrape metrics|use Prometheus|watch the"
            " server|read the counters}?",
            "{Where are|Where do I find|Where can I see} {metrics|the metrics|the counters|the"
            " statistics}?",
            "{Does tgi support|Does tgi work with|Can I use|Is there support for}"
            " {Prometheus|metrics|Grafana|monitoring}?",
        ),
    ),
    (
        "POST /tokenize returns the tokens of a text with their ids and positions.",
        _route(
            "/tokenize",
            _WHICH
            + " {tokenizes text|returns tokens of a text|splits text into tokens|gives token ids}?",
            _HOW
            + " {tokenize text|count tokens|see the tokens of a text|split text into tokens|get"
            " token ids}?",
        ),
    ),
    (
        "POST /chat_tokenize renders the chat template and returns its tokens.",
        _route(
            "/chat_tokenize",
            _WHICH
            + " {tokenizes messages|tokenizes a chat|renders the chat template|shows the templated"
            " chat}?",
            _HOW
            + " {tokenize a chat|tokenize messages|see the rendered chat template|count the tokens"
            " of a chat}?",
        ),
    ),
    (
        "GET /docs shows the interactive API documentation.",
        _route(
            "/docs",
            _WHICH + " {shows the documentation|has the API docs|shows the API documentation|has"
            " Swagger}?",
            "{Where is|Where are|Where do I find|Is there} {the documentation|the API docs|API"
            " documentation|the docs|Swagger|an API reference}?",
        ),
    ),
    (
        "POST /invocations is the SageMaker route. It takes generate, chat or completion requests.",
        _route(
            "/invocations",
            _WHICH + " {does SageMaker use|is for SageMaker|serves SageMaker}?",
            "{Does|Can} {tgi|TGI} {work with|run on|support|be used with} {SageMaker|Amazon"
            " SageMaker}?",
        ),
    ),
    (
        "POST /vertex is the route for Vertex AI. It takes a list of instances.",
        _route(
            "/vertex",
            _WHICH + " {does Vertex AI use|is for Vertex AI|takes instances|serves Vertex}?",
            "{Does|Can} {tgi|TGI} {work with|run on|support|be used with} {Vertex AI|Vertex|Google"
            " Vertex}?",
        ),
    ),
    (
        "GET /ping is the same as /health.",
        _route(
            "/ping",
            "What is the {difference|relation} between /ping and /health?",
            "{Is|Does} /ping {the same as|like|equal} /health?",
        ),
    ),
    (
        "The model is chosen with --model-id, a local directory or a hub id.",
        _option(
            "--model-id",
            _FLAG + " {chooses|selects|names|sets|picks} the model?",
            _HOW + " {choose|select|name|pick|serve|load|use|change} {a model|another model|my own"
            " model|a different model|a model from a folder|the model}?",
            "{Where do I|Where can I} {name|give|set} the model{| to serve}?",
            "{Can tgi|Can the server|Does tgi} {serve|load|run} {my own model|a local model|a model"
            " from disk|a model from the hub}?",
        ),
    ),
    (
        "The port is set with --port. The default is 3000.",
        _option(
            "--port",
            "{Which|What} port {does tgi use|does the server listen on|is used|is the default|does"
            " tgi listen on|is it on}?",
            _HOW
            + " {change|set|choose|pick} {the port|another port|a different port|the port number}?",
            _FLAG + " {sets|changes|chooses} the port?",
            "{What is|What's} the {default port|port|port number}{| of tgi| of the server}?",
        ),
    ),
    (
        "The address is set with --hostname. The default is 0.0.0.0.",
        _option(
            "--hostname",
            _FLAG + " {sets|changes|chooses} {the address|the host|the IP address|the listening"
            " address}?",
            _HOW
            + " {change|set|choose} {the host|the address|the IP address|the interface}{| to listen"
            " on}?",
            "{Which|What} {address|host|IP address} does {tgi|the server} listen on?",
        ),
    ),
    (
        (
            "The backend is chosen with --backend. The default, auto, takes the best one that is"
            " usable."
        ),
        _option(
            "--backend",
            _FLAG + " {chooses|selects|sets|picks|forces} {the backend|a backend}?",
            _HOW + " {choose|select|set|pick|force|switch} {the backend|a backend|another backend|a"
            " certain backend}?",
            "{How|In which way} {does tgi choose|is chosen|does tgi pick} {a|the} backend?",
            "{Which|What} backend is {the default|used by default|taken automatically|picked"
            " automatically}?",
        ),
    ),
    (
        "The command tgi backends lists the backends and says which are usable here.",
        [
            (
                "{What does|What is|Explain|Purpose of} {tgi backends|the command tgi backends|the"
                " tgi backends command}{| do| for}?"
            ),
            (
                "{Which|What} command {lists|shows} {backends|the backends|the installed"
                " backends|all backends}?"
            ),
            _HOW + " {list|see|show} {backends|the backends|the installed backends|all backends|the"
            " available backends|usable backends}?",
        ],
    ),
    (
        "tgi has backends for CPU, CUDA, ROCm, XPU, Gaudi, Neuron and TPU. Each is a plugin.",
        [
            (
                "{Which|What} {hardware|accelerators|devices|chips|machines|backends|platforms}"
                " {does tgi support|can tgi use|does tgi run on|are supported|are there|does tgi"
                " have}?"
            ),
            (
                "{On what|On which} {hardware|machines|devices|chips|accelerators} {does tgi"
                " run|can I run tgi|will it run|does it work}?"
            ),
            (
                "{Does tgi run on|Does tgi support|Can tgi use|Does it work on|Is there support"
                " for|Can I run tgi on} {AMD|NVIDIA|Intel|Gaudi|TPU|TPUs|Neuron|ROCm|CUDA|GPUs|a"
                " GPU|XPU|Trainium|an AMD card|an NVIDIA card|an Intel GPU}?"
            ),
            (
                "{List|Name|Give me} {the backends|all backends|the supported hardware|the"
                " accelerators}{| of tgi| please}."
            ),
        ],
    ),
    (
        (
            "A backend is a plugin that runs the model on one kind of hardware. The core finds it"
            " by its entry point."
        ),
        [
            _WHAT + " {a backend|a tgi backend|a backend in tgi|the backend|a backend plugin}?",
            (
                "{How does tgi|How does the core} {find|discover|detect|load} {backends|a"
                " backend|its backends|plugins|the plugins}?"
            ),
            "{What does|What is the job of} a backend{| do}?",
            "{How are|Are} backends {plugins|installed|discovered|found|loaded}?",
        ],
    ),
    (
        "The CPU backend runs models on the processor. It is the default and the reference.",
        [
            _WHAT + " {the CPU backend|tgi-cpu|the cpu backend}?",
            (
                "{Does tgi run|Can tgi run|Does it work|Can I use tgi|Can I run tgi|Will tgi run}"
                " {on CPU|on a CPU|without a GPU|on my laptop|without an accelerator|on a"
                " processor|with no GPU|on a machine without a GPU}?"
            ),
            (
                "{Do I need|Does tgi need|Must I have|Is it necessary to have} {a GPU|an"
                " accelerator|a graphics card|special hardware}?"
            ),
            (
                "{Which|What} backend is {the reference|used without a GPU|for the"
                " processor|embedded}?"
            ),
        ],
    ),
    (
        "The null backend runs no model. It exists for tests.",
        [
            _WHAT + " the null backend?",
            "{What does|What is the job of} the null backend{| do}?",
            (
                "{Which|What} backend {runs no model|is for tests|is for testing|returns scripted"
                " tokens}?"
            ),
        ],
    ),
    (
        (
            "Write a package with a Backend and a Worker and register it under the entry point"
            " group tgi.backends."
        ),
        [
            _HOW
            + " {write|create|add|make|build|develop|implement} {a backend|my own backend|a new"
            " backend|a backend plugin|support for new hardware|a plugin}?",
            (
                "{What does|What must} {a new backend|my backend|a backend author}"
                " {need|implement|write|provide}?"
            ),
            "{Which|What} entry point group {do backends use|is for backends|must I use}?",
            (
                "{Can I|May I|Can third parties} {write|add|ship} {my own backend|their own"
                " backend|a backend}?"
            ),
        ],
    ),
    (
        "The number of devices is set with --num-shard. The model is split over them.",
        _option(
            "--num-shard",
            _FLAG
            + " {splits the model|shards the model|sets the number of shards|sets the number of"
            " devices}?",
            _HOW
            + " {split a model|shard a model|use several GPUs|use many devices|use two GPUs|run on"
            " several devices|use tensor parallelism}{| over GPUs| with tgi}?",
            "{Does tgi|Can tgi} {support|use|do} {sharding|several GPUs|tensor parallelism|multiple"
            " GPUs|more than one GPU}?",
        ),
    ),
    (
        "Set --max-concurrent-requests. The default is 128; more requests get status 429.",
        _option(
            "--max-concurrent-requests",
            _FLAG + " {limits|caps} {the number of requests|concurrent requests|requests at a"
            " time|parallel requests}?",
            _HOW
            + " {limit|cap|bound|raise} {concurrent requests|the number of requests|requests at a"
            " time|parallel requests}?",
            "How many {requests|clients|users} {at a time|at once|in parallel|concurrently} {can"
            " tgi handle|are allowed|does tgi take|does the server accept}?",
        ),
    ),
    (
        (
            "Status 429 means that the model is overloaded. Try again later or raise"
            " --max-concurrent-requests."
        ),
        [
            (
                "{What does|What is|Explain|Why do I get|Why did I get|I got} {429|status 429|a"
                " 429|the error 429|overloaded|Model is overloaded|a 429 error|HTTP 429}{| mean}?"
            ),
            (
                "{Which|What} status {do I get|is returned|comes} when the {server|model} is"
                " {overloaded|busy|full}?"
            ),
            (
                "{What happens|What does tgi do} when {there are too many requests|the server is"
                " overloaded|too many clients come}?"
            ),
        ],
    ),
    (
        "Status 422 means that the request is not valid. The error text says which rule it breaks.",
        [
            (
                "{What does|What is|Explain|Why do I get|Why did I get|I got} {422|status 422|a"
                " 422|the error 422|a validation error|input validation error|HTTP 422}{| mean}?"
            ),
            (
                "{Which|What} status {do I get|is returned|comes} {for a bad request|for an invalid"
                " request|when my request is wrong|for invalid input}?"
            ),
        ],
    ),
    (
        "Set --max-input-tokens. It limits the length of the prompt.",
        _option(
            "--max-input-tokens",
            _FLAG + " limits the {prompt|prompt length|length of the prompt|input|input length}?",
            _HOW
            + " {limit|set|cap|bound} the {prompt length|length of prompts|input length|longest"
            " prompt}?",
            "How long {can|may} {a prompt|the prompt|my prompt|the input} be?",
        ),
    ),
    (
        "Set --max-total-tokens. It limits the prompt and the output together.",
        _option(
            "--max-total-tokens",
            _FLAG
            + " limits {prompt and output together|the total length|the total number of tokens|the"
            " whole length}?",
            _HOW
            + " {limit|set|cap|bound} {the total length|prompt and output together|the total number"
            " of tokens|the context length}?",
        ),
    ),
    (
        "Set --max-batch-total-tokens. It limits the tokens in the KV cache.",
        _option(
            "--max-batch-total-tokens",
            _FLAG
            + " limits {the KV cache|the tokens in the KV cache|the size of the cache|the cache"
            " size}?",
            _HOW
            + " {limit|set|cap|bound} {the KV cache|the cache size|the tokens in the cache|the KV"
            " cache size}?",
        ),
    ),
    (
        "Set --max-batch-prefill-tokens. It limits the prompt tokens in one step.",
        _option(
            "--max-batch-prefill-tokens",
            _FLAG + " limits {the prefill|prompt tokens in a step|the prefill tokens|the size of a"
            " prefill}?",
            _HOW
            + " {limit|set|cap|bound} {the prefill|the prefill tokens|prompt tokens per step|the"
            " prefill size}?",
        ),
    ),
    (
        "Set --api-key. Clients then send the header Authorization: Bearer with the key.",
        _option(
            "--api-key",
            _FLAG
            + " {protects the server|sets the API key|sets a key|adds authentication|requires a"
            " key}?",
            _HOW + " {protect|secure|lock|guard} {the server|tgi|my server|access}?",
            _HOW + " {set a key|require a key|add authentication|use an API key|send the key|set a"
            " password}?",
            "{Does tgi|Can tgi|Does the server} {support|have|use} {authentication|API keys|a"
            " key|passwords|tokens for access}?",
            "{Which|What} header {carries|has|holds} the {key|API key}?",
        ),
    ),
    (
        "Weights can be quantized with --quantize, for example awq, gptq, fp8 or bitsandbytes.",
        _option(
            "--quantize",
            _FLAG + " {quantizes|quantizes the model|sets the quantization|turns on quantization}?",
            _HOW
            + " {quantize|quantize a model|use quantization|serve a quantized model|load quantized"
            " weights|save memory with quantization}?",
            "{Which|What} {quantizations|quantization methods|quantization formats} {are there|does"
            " tgi support|are supported|can I use}?",
            "{Does tgi|Can tgi} {support|do|use|load} {quantization|quantized"
            " models|awq|gptq|fp8|AWQ|GPTQ}?",
        ),
    ),
    (
        "The precision of the weights is set with --dtype: float16, bfloat16 or float32.",
        _option(
            "--dtype",
            _FLAG
            + " {sets|changes|chooses} the {precision|data type|number format|precision of the"
            " weights}?",
            _HOW + " {set|change|choose|use} {the precision|the data type|bfloat16|float16|half"
            " precision|float32}?",
            "{Which|What} {precisions|data types|dtypes} {are there|can I use|does tgi support}?",
        ),
    ),
    (
        "Logs become JSON lines with --json-output.",
        _option(
            "--json-output",
            _FLAG + " {makes logs JSON|gives JSON logs|switches logs to JSON}?",
            _HOW
            + " {get JSON logs|log JSON|have logs as JSON|write logs in JSON|make the log machine"
            " readable}?",
        ),
    ),
    (
        "A LoRA adapter is named with --lora-adapters and chosen per request with adapter_id.",
        _option(
            "--lora-adapters",
            _FLAG + " {loads LoRA adapters|loads adapters|names the adapters|is for LoRA}?",
            _HOW
            + " {use LoRA|load an adapter|use adapters|serve LoRA adapters|load a LoRA adapter|use"
            " an adapter}?",
            "{Does tgi|Can tgi} {support|use|load} {LoRA|adapters|LoRA adapters}?",
        ),
    ),
    (
        "Set --cors-allow-origin to the origin that browsers may call from.",
        _option(
            "--cors-allow-origin",
            _FLAG + " {is for CORS|sets CORS|allows browsers|sets the allowed origin}?",
            _HOW
            + " {set CORS|allow a browser|call tgi from a browser|allow an origin|configure CORS}?",
        ),
    ),
    (
        (
            "The length of the answer is set with max_new_tokens in the parameters, or max_tokens"
            " in chat."
        ),
        [
            _DOES.replace(
                "@",
                "{max_new_tokens|max_tokens|the parameter max_new_tokens|the max_new_tokens"
                " parameter}",
            ),
            (
                "{Which|What} parameter {limits|sets|controls} {the length of the answer|the output"
                " length|how long the answer is|the number of generated tokens|the number of new"
                " tokens}?"
            ),
            _HOW + " {get a longer answer|limit the answer|make the answer shorter|set the output"
            " length|limit the number of generated tokens|make the output longer|cut the"
            " answer}?",
            "Why {is|was} my {answer|output|text} {so short|cut|cut off|truncated}?",
        ],
    ),
    (
        "temperature makes sampling more or less random. Use 0 in chat for the most likely tokens.",
        [
            _DOES.replace(
                "@",
                "{temperature|the temperature|the parameter temperature|the temperature"
                " parameter|the sampling temperature}",
            ),
            (
                "{Which|What} parameter {makes|controls|sets} {answers more random|the"
                " randomness|how random the answer is|how creative the answer is}?"
            ),
            _HOW
            + " {make answers more random|make answers less random|control randomness|get greedy"
            " decoding|get the most likely tokens|make the model more creative}?",
        ],
    ),
    (
        "top_p keeps the smallest set of likely tokens whose probabilities add up to p.",
        [
            _DOES.replace(
                "@", "{top_p|the parameter top_p|the top_p parameter|nucleus sampling|top p}"
            ),
            "{Which|What} parameter {does|is for|is} nucleus sampling?",
            _HOW + " {use|do} {nucleus sampling|top-p sampling}?",
        ],
    ),
    (
        "top_k keeps the k most likely tokens and drops the others.",
        [
            _DOES.replace(
                "@", "{top_k|the parameter top_k|the top_k parameter|top-k sampling|top k}"
            ),
            (
                "{Which|What} parameter keeps {only the most likely tokens|the k most likely"
                " tokens|the k best tokens}?"
            ),
            _HOW + " keep only the {k best|k most likely|most likely} tokens?",
        ],
    ),
    (
        "repetition_penalty makes tokens that already occurred less likely.",
        [
            _DOES.replace(
                "@", "{repetition_penalty|the repetition penalty|the parameter repetition_penalty}"
            ),
            (
                "{Which|What} parameter {stops repetition|avoids repetition|punishes"
                " repetition|reduces repetition}?"
            ),
            _HOW
            + " {stop|avoid|reduce|prevent} {repetition|repeated words|repeating text|loops in the"
            " text}?",
            (
                "{Why does the model repeat itself|The model repeats itself, what can I do|The"
                " answer repeats words}?"
            ),
        ],
    ),
    (
        (
            "A seed makes sampling repeatable: the same request with the same seed gives the same"
            " text."
        ),
        [
            _DOES.replace("@", "{seed|the seed|a seed|the parameter seed|the seed parameter}"),
            _HOW
            + " {get the same answer twice|make sampling repeatable|get reproducible text|repeat a"
            " sampled answer|make output deterministic}?",
            (
                "{Which|What} parameter {makes sampling repeatable|makes answers reproducible|gives"
                " the same text again}?"
            ),
        ],
    ),
    (
        "stop is a list of strings. Generation ends when one of them appears.",
        [
            _DOES.replace(
                "@",
                "{stop|stop sequences|a stop sequence|the stop parameter|the parameter stop|stop"
                " strings}",
            ),
            _HOW
            + " {end generation at a word|stop at a string|use stop sequences|stop at a certain"
            " word|end the text at a string}?",
            (
                "{Which|What} parameter {ends generation at a string|holds stop strings|stops"
                " generation at a word}?"
            ),
        ],
    ),
    (
        "details asks for the tokens, their log probabilities and the finish reason.",
        [
            _DOES.replace(
                "@", "{details|the details parameter|the parameter details|details true}"
            ),
            (
                "{Which|What} parameter {returns|gives|shows} {log probabilities|the finish"
                " reason|token details|the tokens and their probabilities}?"
            ),
            _HOW + " {get|see} {log probabilities|logprobs|the finish reason|token details|the"
            " probability of tokens}?",
        ],
    ),
    (
        "There are three: length, eos_token and stop_sequence.",
        [
            "{Which|What} finish reasons {are there|does tgi know|exist|can I get}?",
            (
                "{What is|What does|Explain|What are} {finish_reason|the finish reason|a finish"
                " reason|the finish reasons}{| mean}?"
            ),
            "{List|Name} the finish reasons.",
            (
                "{Why did|For which reasons does|When does} {generation|a generation|the text|the"
                " model} {stop|end|finish}?"
            ),
        ],
    ),
    (
        "A grammar forces the answer into a form, such as a JSON schema or a regular expression.",
        [
            _WHAT
            + " {a grammar|the grammar parameter|constrained output|guided generation|structured"
            " output|a grammar in tgi}?",
            _HOW + " {force JSON|get valid JSON|use a grammar|constrain the output|force a JSON"
            " schema|use a regular expression for the answer|get structured output|follow a"
            " schema}?",
            (
                "{Can tgi|Does tgi} {force|support|guarantee|do} {JSON output|a JSON"
                " schema|grammars|structured output|regular expressions|valid JSON}?"
            ),
        ],
    ),
    (
        "Tools are functions that the model may call. Send them as tools with a chat request.",
        [
            _WHAT + " {tools|tool calling|function calling|a tool call|tool use}{| in tgi}?",
            _HOW + " {use tools|call functions|use function calling|send tools|let the model call a"
            " function|give the model tools}?",
            (
                "{Can tgi|Does tgi|Can you|Can the model} {support|do|use|call}"
                " {tools|functions|tool calls|function calling|tool calling}?"
            ),
        ],
    ),
    (
        "Continuous batching lets new requests join the running batch at every step.",
        [
            _WHAT
            + " {continuous batching|batching|dynamic batching|in-flight batching}{| in tgi}?",
            (
                "{How does tgi|How does the server} {batch requests|handle many requests|serve many"
                " users|combine requests}{| at once}?"
            ),
            "{Can|Do|When do} new requests join {a running batch|the running batch|the batch}?",
        ],
    ),
    (
        (
            "The KV cache holds the keys and values of earlier tokens, so that they are not"
            " computed again."
        ),
        [
            _WHAT + " {the KV cache|a KV cache|KV caching|the key value cache}?",
            "{What does|What is stored in|What is kept in|Why is there} the KV cache{| do| hold}?",
            "{Where are|What holds} the keys and values{| of earlier tokens| kept}?",
        ],
    ),
    (
        "Prefill is the first pass over the prompt. Decode then makes one token per step.",
        [
            _WHAT
            + " {prefill|the prefill|decode|a decode step|the decode phase|prefill and decode|the"
            " prefill phase}?",
            "{What is the difference between|Compare|How differ} prefill and decode?",
            (
                "{What happens|What does the server do} {first with a prompt|in the first pass|in"
                " the prefill|in a decode step}?"
            ),
        ],
    ),
    (
        (
            "The prefix cache keeps the blocks of shared prompt beginnings, so that they are"
            " computed once."
        ),
        [
            _WHAT + " {the prefix cache|prefix caching|a prefix cache|prompt caching}?",
            (
                "{How does|How do} {tgi|requests} {reuse|share} {a prompt beginning|prompt"
                " prefixes|common prefixes|the same prompt start|prompt beginnings}?"
            ),
            (
                "{Does tgi|Can tgi} {cache|reuse|share} {prompts|prompt prefixes|prefixes|prompt"
                " beginnings}?"
            ),
        ],
    ),
    (
        "Speculative decoding lets a small draft model guess tokens that the main model checks.",
        [
            _WHAT + " {speculative decoding|speculation|the draft model|a draft"
            " model|--speculate|speculative sampling}?",
            "{What does|What is the job of|Why is there} {a|the} draft model{| do}?",
            "{How does|Explain how} speculative decoding {work|works}?",
        ],
    ),
    (
        (
            "The front is the process that answers HTTP. The engine is the process that runs the"
            " scheduler and the model."
        ),
        [
            _WHAT
            + " {the front|the engine|the front process|the engine process|the engine core|the"
            " front and the engine}?",
            (
                "{How many|Which|What} processes {does tgi have|are there|does tgi run|does the"
                " server have|does tgi use}?"
            ),
            "{What does|What is the job of} {the engine|the front|the engine process}{| do}?",
        ],
    ),
    (
        "The engine is started again and the unfinished requests go on.",
        [
            (
                "{What happens|What does tgi do|What comes next} {when|if} {the engine crashes|the"
                " engine dies|the engine is killed|the backend crashes|the engine process"
                " fails|there is a crash}?"
            ),
            "{What if|How does tgi recover when} the engine {crashes|dies|fails|is killed}?",
            (
                "{Does|Can} {tgi|the server} {survive|recover from|handle} {a crash|an engine"
                " crash|a crash of the engine}?"
            ),
        ],
    ),
    (
        "tgi is written in Python. Its core imports no torch and names no hardware.",
        [
            (
                "{In which|What|Which} {language|programming language} is {tgi|TGI|the server|it}"
                " {written|written in|made in|made|coded in}?"
            ),
            "{Does the core|Does tgi's core} {import|need|use} {torch|PyTorch|jax}?",
            "{Is tgi|Is TGI} written in {Python|Rust|C++|Go}?",
            "What does the core {import|depend on|know about hardware}?",
        ],
    ),
    (
        "tgi is free software under the Apache 2.0 license.",
        [
            (
                "{What is|What's|Which is|Tell me} {the license|tgi's license|the licence|the"
                " license of tgi}?"
            ),
            "{Which|What} {license|licence} {does tgi have|does tgi use|is tgi under|has tgi}?",
            "Is {tgi|TGI} {free|open source|free software|open|Apache licensed}?",
            "{May I|Can I} use {tgi|TGI} {for free|commercially|in my company|in a product}?",
        ],
    ),
    (
        "This is version 4. It keeps the HTTP contract of TGI 3.",
        [
            (
                "{Which|What} version {is this|of tgi is this|are you|is tgi at|is running|of tgi"
                " do I have}?"
            ),
            (
                "{Is tgi 4|Is it|Is this version|Is the new version} {compatible with|the successor"
                " of|like} {TGI 3|version 3|the old TGI|the old version}?"
            ),
            (
                "{What is the difference between|Compare|What changed between} {TGI 3 and tgi"
                " 4|version 3 and 4|the old and the new tgi}?"
            ),
            (
                "{Do|Will|Can} {old clients|TGI 3 clients|clients of TGI 3|my old clients} {still"
                " work|work|work with tgi 4}?"
            ),
        ],
    ),
    (
        "Llama, Mistral, Qwen2, Qwen3, GPT-2 and GPT-NeoX are among the supported families.",
        [
            (
                "{Which|What} {models|model families|families|architectures|kinds of models} {does"
                " tgi support|are supported|can tgi serve|can I serve|does tgi know|can tgi run}?"
            ),
            (
                "{Does tgi|Can tgi} {support|serve|run|load} {Llama|Mistral|Qwen|GPT-2|Llama"
                " models|Qwen3|GPT-NeoX}?"
            ),
            "{List|Name} the supported {models|families|architectures|model families}.",
        ],
    ),
    (
        "Send SIGTERM or press Ctrl+C. Open requests get up to 90 seconds to finish.",
        [
            _HOW + " {stop|shut down|end|quit|terminate|close} {the server|tgi|it}?",
            (
                "{What happens|What does tgi do} {on SIGTERM|at shutdown|when I stop the"
                " server|when I press Ctrl+C}?"
            ),
            "{How long do|What happens to} open requests {get|at shutdown|when I stop the server}?",
        ],
    ),
    (
        (
            'Post JSON, for example: curl localhost:3000/generate -H "Content-Type:'
            ' application/json" -d \'{"inputs": "What is Deep Learning?"}\''
        ),
        [
            (
                "{Show|Give} me {a|an example|an example of a|a sample} {curl"
                " command|request|curl|request to the server|curl call}."
            ),
            _HOW + " {use curl|send a request with curl|call tgi with curl|call the server from a"
            " shell|try it with curl}?",
            "{What does|How does} a {request|generate request|curl command} look{| like}?",
        ],
    ),
    (
        (
            "Read the configuration page or run tgi serve --help. Options can also be given as"
            " environment variables."
        ),
        [
            (
                "{Where do I find|Where are|Where is|How do I see|How can I see} {the options|all"
                " options|the flags|the list of options|all flags|help on the options}?"
            ),
            _HOW + " {configure|set up} {tgi|the server}?",
            "{Can I|May I|Can options be} {use|set|given as} environment variables{| for options}?",
            "{Which|What} options {are there|does tgi have|does tgi serve have|exist}?",
        ],
    ),
]
