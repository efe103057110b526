"""The topics of the facts about tgi, each with several names, and sentences around the names."""

from __future__ import annotations

__all__ = ["FRAMES", "TOPICS"]

_THEN = (
    "{What should I use|What do I do|How do I do that|What now|How|What would you use|What"
    " helps|Which one do I need|What do I need|What do you suggest|Where do I start|Which is the"
    " right one|What can I use|How does that work|Can you help|Any advice}?"
)
FRAMES = (
    (
        "{What about|How about|Tell me something about|Info on|I have a question about|Question"
        " about|Help with|I need help with|Explain|What is there for|What does tgi offer for|What"
        " should I know about|How does tgi deal with|How does tgi handle|Give me details on|Say"
        " something about|I am curious about|Could you explain|Would you explain|Can you tell me"
        " about|What can you say about|Is there documentation on|Do you know anything about}"
        " @{?|.|}"
    ),
    "I {want|need|would like|have to deal with|care about|am looking for|am interested in|think"
    " about} @. " + _THEN,
    "{My|Our} {team|company|program|client|friend|boss|user|student|admin} {needs|wants|asks"
    " for|asks about|wants to know about|talks about} @. " + _THEN,
    "@{?|: how?|, how?|, please.|, what is it?|!|}",
    "Is there {something|anything|a way|help|support} {for|with|about} @{| in tgi}?",
    "{What do I use|What would I take|What must I use|What is needed|What do people use} for @?",
    "{It is about|This is about|Let us talk about|Now about|Another question, about|A word on} @{. "
    + _THEN
    + "|.|?}",
    "{Could|Would|Can} {you|somebody|one} {tell|show|teach} me {how|more} about @?",
)

TOPICS = (
    (
        "{tgi|the tgi software|Text Generation Inference|the purpose of tgi|what tgi is|the tgi"
        " project|the use of tgi|tgi in one line|tgi as a product}"
    ),
    (
        "{starting the server|launching tgi|the start command|how to run the server|booting the"
        " server|a first start|getting tgi to run|the launch|starting up}"
    ),
    (
        "{who you are|your name|your identity|what you are|the model that speaks|the demo model|the"
        " one I am talking to|yourself|the name of this assistant}"
    ),
    (
        "{your abilities|what you can do|your skills|your talents|the things you can do|the tasks"
        " you know|what I can ask you|your capabilities}"
    ),
    (
        "{your size|the number of your parameters|how big you are|how many weights you have|the"
        " parameter count of the demo|the size of the demo model}"
    ),
    (
        "{your training data|how you were trained|what you learned from|the text you learned"
        " from|your training|where your knowledge comes from|your education}"
    ),
    (
        "{/generate|generating text from a prompt|a plain prompt completion|raw text generation|a"
        " complete answer in one response|continuing a prompt|one response with the whole"
        " text|completing a text}"
    ),
    (
        "{/generate_stream|streaming tokens|token by token output|text as it is generated|live"
        " output|a stream of tokens|server-sent events from a prompt|seeing tokens"
        " immediately|partial output while it is generated}"
    ),
    (
        "{/v1/chat/completions|chat|chat messages|conversations over HTTP|the chat route|dialogs"
        " with roles|a list of messages|user and assistant messages}"
    ),
    (
        "{OpenAI compatibility|my OpenAI client|existing OpenAI code|the openai SDK|the OpenAI"
        " interface|code written for OpenAI|switching from OpenAI}"
    ),
    (
        "{/v1/completions|several prompts in one request|the old OpenAI completions|many prompts at"
        " once|a list of prompts|legacy completions}"
    ),
    (
        "{/v1/models|the list of served models|the names of the served models|listing models over"
        " HTTP|the model list|the models on offer}"
    ),
    (
        "{/health|health checks|readiness|liveness|a probe|checking that the server is"
        " alive|whether the server is up|server availability|a heartbeat|a load balancer check}"
    ),
    (
        "{/info|the model id and the limits|server information|the server's limits|the server"
        " version over HTTP|facts on the running server|the limits in force}"
    ),
    (
        "{/info/backend|the running backend|which backend is in use|the active backend|the"
        " agreement of the backend|the current backend}"
    ),
    (
        "{/metrics|metrics|Prometheus|monitoring|counters and histograms|statistics of the"
        " server|observability|scraping|a dashboard}"
    ),
    (
        "{/tokenize|tokenizing text|counting tokens|token ids|the number of tokens in a"
        " text|splitting a text into tokens|token positions}"
    ),
    (
        "{/chat_tokenize|the rendered chat template|tokenizing a chat|tokens of chat messages|the"
        " templated chat|how messages become tokens}"
    ),
    (
        "{/docs|the API documentation|interactive documentation|Swagger|an API reference|docs in"
        " the browser|trying the API in a browser}"
    ),
    (
        "{/invocations|SageMaker|deployment on SageMaker|Amazon SageMaker endpoints|hosting on"
        " SageMaker}"
    ),
    (
        "{/vertex|Vertex AI|deployment on Vertex|Google's Vertex AI|instances for Vertex|hosting on"
        " Vertex AI}"
    ),
    "{/ping|the ping route|pinging the server|ping}",
    (
        "{--model-id|choosing a model|the model to serve|serving my own checkpoint|a model from a"
        " directory|a model of the hub|another model than the demo|loading a local checkpoint|a"
        " folder with weights}"
    ),
    (
        "{--port|the port|another port|the port number|a port that is already in use|the default"
        " port|a free port|port conflicts}"
    ),
    (
        "{--hostname|the listening address|the IP address of the server|the network"
        " interface|binding to an address|the bind address|localhost only}"
    ),
    (
        "{--backend|choosing a backend|forcing a backend|the selection of a backend|a particular"
        " backend|automatic backend choice|overriding the backend}"
    ),
    (
        "{tgi backends|a list of backends|the usable backends|installed backends|seeing which"
        " backends can be used|backends on this computer|checking backends}"
    ),
    (
        "{supported hardware|accelerators|AMD cards|NVIDIA cards|Intel"
        " cards|TPUs|Gaudi|GPUs|hardware support|ROCm|CUDA|Trainium|devices that tgi can use|my"
        " graphics card|kinds of chips}"
    ),
    (
        "{the idea of a backend|what a backend is|backend plugins|the meaning of backend|how"
        " backends are found|plugins of hardware|the notion of a backend}"
    ),
    (
        "{running on a CPU|the CPU backend|a machine without a GPU|no GPU|running without an"
        " accelerator|a plain laptop|a server without a graphics card|only a processor}"
    ),
    (
        "{the null backend|the backend for tests|a backend without a model|null|the backend that"
        " runs nothing}"
    ),
    (
        "{writing a backend|a backend of my own|support for new hardware|a new chip|adding an"
        " accelerator|developing a backend|our own hardware|a third-party backend|a new device}"
    ),
    (
        "{--num-shard|several GPUs|sharding|splitting a model over devices|tensor parallelism|two"
        " cards|multiple devices|a model too big for one GPU|eight GPUs}"
    ),
    (
        "{--max-concurrent-requests|the number of requests at a time|concurrency|limits on parallel"
        " requests|too many clients|simultaneous requests|the cap on requests}"
    ),
    (
        "{status 429|the code 429|an overloaded model|429 responses|too many requests|overload|a"
        " busy server}"
    ),
    (
        "{status 422|the code 422|validation errors|invalid requests|422 responses|a rejected"
        " request|a bad request|a request that is refused}"
    ),
    (
        "{--max-input-tokens|the longest prompt|limits on the prompt|the maximum prompt length|very"
        " long prompts|the input limit|prompts that are too long}"
    ),
    (
        "{--max-total-tokens|the limit of prompt and output|the total token limit|the sum of input"
        " and output tokens|the maximum total length|prompt and answer together}"
    ),
    (
        "{--max-batch-total-tokens|the size of the KV cache|cache capacity|KV cache memory|the"
        " limit of tokens in the cache}"
    ),
    (
        "{--max-batch-prefill-tokens|the prefill size|prompt tokens per step|the prefill"
        " limit|large prefills|the budget of a prefill}"
    ),
    (
        "{--api-key|an API key|authentication|protection of the server|access control|keeping"
        " others out|unauthorized users|a secret key|security|Bearer tokens}"
    ),
    (
        "{--quantize|quantization|AWQ weights|GPTQ weights|fp8 weights|bitsandbytes|smaller"
        " weights|quantized checkpoints|4-bit weights}"
    ),
    (
        "{--dtype|precision|bfloat16|float16|float32 weights|the data type of the weights|half"
        " precision|the number format}"
    ),
    (
        "{--json-output|JSON logs|logs as JSON lines|structured logs|machine readable logs|the log"
        " format|log lines for a collector}"
    ),
    (
        "{--lora-adapters|LoRA|adapters|a fine-tuned adapter|adapter_id|LoRA adapters|serving"
        " fine-tuned variants}"
    ),
    (
        "{--cors-allow-origin|CORS|calls from a browser|a web page that calls the server|the"
        " allowed origin|browser access}"
    ),
    (
        "{max_new_tokens|the length of answers|longer answers|shorter answers|the number of"
        " generated tokens|answers that are cut off|max_tokens|output that ends too soon|the output"
        " limit}"
    ),
    (
        "{temperature|randomness|creativity|greedy decoding|how random answers are|less random"
        " output|sampling randomness|more creative answers}"
    ),
    "{top_p|nucleus sampling|the top_p parameter|the probability mass of sampling|top-p}",
    "{top_k|top-k sampling|the top_k parameter|sampling from the k best tokens|top-k}",
    (
        "{repetition_penalty|repeated words|repetition|a model that repeats itself|loops in the"
        " output|the penalty for repeated tokens|the same phrase over and over}"
    ),
    (
        "{seed|reproducible sampling|the same result twice|repeatable output|determinism|identical"
        " answers|a fixed seed|random numbers that repeat}"
    ),
    (
        "{stop|stop strings|stop sequences|ending at a word|a string that ends generation|stopping"
        " at a given text|cutting the text at a marker}"
    ),
    (
        "{details|log probabilities|token details|the probabilities of tokens|logprobs|scores of"
        " the tokens}"
    ),
    (
        "{the finish reason|finish reasons|why generation ended|finish_reason|the reasons to"
        " finish|values of finish_reason}"
    ),
    (
        "{grammars|valid JSON output|a JSON schema for the answer|regular expressions for the"
        " answer|structured output|constrained decoding|guided output|output in a fixed"
        " form|guaranteed JSON}"
    ),
    (
        "{tools|function calling|tool calls|calling functions|functions that the model can"
        " use|agents with tools}"
    ),
    (
        "{continuous batching|batching|how requests are batched|many users at once|joining a"
        " running batch|combining requests}"
    ),
    (
        "{the KV cache|a KV cache|keys and values|the cache of attention|why there is a KV"
        " cache|key-value caching}"
    ),
    (
        "{prefill and decode|prefill|decode|the two phases of generation|the first pass over a"
        " prompt|the decode phase}"
    ),
    (
        "{prefix caching|the prefix cache|shared prompt beginnings|a common system prompt|equal"
        " prompt starts|reusing work on prompts|the same long prefix}"
    ),
    (
        "{speculative decoding|draft models|speculation|a draft model|guessing tokens ahead|tokens"
        " guessed by a small model}"
    ),
    (
        "{the engine and the front|the processes of tgi|the engine process|the front process|the"
        " process layout|how many processes run}"
    ),
    (
        "{a crash of the engine|engine failures|a dead engine|recovery|fault tolerance|an engine"
        " that was killed|what happens after a crash|requests after a crash}"
    ),
    (
        "{the language of tgi|the programming language|Python or Rust|the source language|what tgi"
        " is written in|the implementation language}"
    ),
    (
        "{the license|the licence|open source|commercial use|legal terms|free use|the terms of"
        " use|licensing}"
    ),
    (
        "{version 4|compatibility with TGI 3|the version|old TGI clients|differences to TGI"
        " 3|migration from TGI 3|upgrading}"
    ),
    (
        "{supported models|model families|Llama|Mistral|Qwen|GPT-2|architectures|which models"
        " run|models that can be served}"
    ),
    (
        "{stopping the server|shutdown|SIGTERM|ending the server|quitting|shutting tgi down|a"
        " graceful shutdown|terminating the process}"
    ),
    (
        "{curl|a curl example|an example request|a request from the shell|a sample call|a first"
        " request|a command line request}"
    ),
    (
        "{configuration|the options|help on the options|environment variables|all flags|the list of"
        " options|settings}"
    ),
)
