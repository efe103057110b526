"""Goals and indirect questions to which a fact about tgi is the answer, and sentences around them.

`GOALS` has one entry per entry of `FACTS`, in the same order. An entry contains goals, which follow
"to", and after `~` indirect questions, which follow "tell me".
"""

from __future__ import annotations

__all__ = ["CLAUSE_FRAMES", "GOALS", "GOAL_FRAMES"]

_ASK = (
    "{How|How do I do that|How is that done|What do I need|Which one is it|What should I use|What"
    " do you recommend|Is that possible|Can I do that|Does tgi do that|What must I do|Which is the"
    " way|What would you do|Where do I begin|Any idea|Can you help me|What do I do}?"
)
GOAL_FRAMES = (
    (
        "{How|In which way|By what means} {do|can|would|could|should|might|must}"
        " {I|we|one|somebody|a user|an admin|people} @{?|?|?| here?| with tgi?}"
    ),
    "{I|We} {want|need|would like|have|plan|intend|hope|wish|must learn how|am supposed|try|have"
    " been told} to @. " + _ASK,
    (
        "{Is it possible|Is there a way|Is there an option|Is there a trick|Is it hard|Is it"
        " easy|Is it allowed|Do you know how|Does tgi allow me} to @?"
    ),
    (
        "{Which|What} {option|setting|flag|parameter|route|command|part of tgi|feature} {lets"
        " me|lets us|makes it possible to|do I need to|would I use to|do I take to|is there to|is"
        " meant to|would help me to} @?"
    ),
    "{Can|Could|May|Might} {I|we|one|somebody} @{?|?| with tgi?| with this server?| somehow?}",
    (
        "{Tell me how|Show me how|Explain how|Describe how|Please say how|I do not know how|I"
        " forgot how|I wonder how|Teach me how} to @{.|}"
    ),
    (
        "{What do I do|What is needed|What must I set|What should I call|What do I have to"
        " know|What does it take|What should I write|Where do I look} {to|in order to|if I want"
        " to|when I need to|when I have to} @?"
    ),
    "{My|Our} {boss|team|teacher|client|colleague|customer|admin|friend} {asked me|told me|wants"
    " me|expects me|would like me} to @. " + _ASK,
    (
        "{To|In order to} @, {what do I need|what do I use|which option is right|what would you"
        " take|what must I do|where do I go|what is there}?"
    ),
    "{My task is|The task is|My job is|The goal is|The idea is|My plan is|All I want is} to @. "
    + _ASK,
    "{Suppose|Say|Imagine} {I|we} {want|need|have} to @. " + _ASK,
)
CLAUSE_FRAMES = (
    "{Can|Could|Would|Will} you {tell|explain to|please tell|kindly tell} me @?",
    (
        "I {wonder|would like to know|do not understand|forgot|never understood|want to know|have"
        " to know|am not sure|ask myself|need to find out} @{.|}"
    ),
    "{Do you know|Do you remember|Any idea|Have you an idea|May I ask|Does anybody know} @?",
    (
        "{Explain|Tell me|Describe|Say|Please explain|Please tell me} {|briefly |simply |shortly"
        " |in simple words |in your own words |again }@{.|}"
    ),
    (
        "{My|Our} {boss|team|teacher|client|colleague|customer|son|friend} {asks|asked|wants to"
        " know|would like to know|does not understand} @. {What is the answer|What do I say|What"
        " can I tell them|What should I reply|Can you help}?"
    ),
    (
        "{What I want to know is|The question is|My question is|Here is my question:|It is unclear"
        " to me|It would help to know} @."
    ),
    "{Explain|Describe} to {me|my manager|a child|a student|a newcomer|the team|our users} @.",
)

GOALS = (
    (
        "{learn about tgi|describe tgi in one sentence|explain tgi to my team|write a line on"
        " tgi|get to know this software}~{what tgi is|what tgi does|what tgi is made for|what"
        " people use tgi for|what tgi is useful for|what tgi helps with|why tgi exists|what the use"
        " of tgi is|what is behind the name tgi|what this software does|why one would want tgi|what"
        " TGI means|what Text Generation Inference is|what sort of program this is}"
    ),
    (
        "{start tgi|start the server|get a server running|bring the server up|launch it for the"
        " first time|run tgi after the installation|have a running server|start serving|open the"
        " server from the console|begin with tgi}~{how the server is started|what I type to start"
        " tgi|which command starts everything|what comes after the installation|how tgi is"
        " launched}"
    ),
    (
        "{know who you are|learn your name|find out who talks to me|call you by a name}~{who you"
        " are|what you are called|who is talking to me|who replies to me|what your name is|which"
        " model I have in front of me|what kind of model you are|whether you have a name|who wrote"
        " this reply|who I have the honour to talk to}"
    ),
    (
        "{learn what you can do|find out what you are good at|use you for something|try your"
        " skills}~{what you can do|what you are able to do|what you are good at|which tasks you can"
        " do|what I may ask you|what sort of work you can do for me|which things you have learned"
        " to do|where your strengths are|what people ask you to do}"
    ),
    (
        "{know your size|know how many parameters you have|compare your size with others}~{how big"
        " you are|how many parameters you have|how many weights are in you|how large your network"
        " is|how small you are|what your size is|how many numbers your network holds}"
    ),
    (
        "{know how you were trained|find out where your knowledge comes from|learn about your"
        " training}~{how you were trained|what you were trained on|where you learned to write|what"
        " texts you have read|where your sentences come from|who wrote your training text|what you"
        " learned to talk from|from which source you learned|which data made you}"
    ),
    (
        "{send a prompt and get the whole text back|complete a text in one call|get a full answer"
        " in one response|post raw text and read one JSON result|have a prompt completed without"
        " streaming|get text for one prompt}~{where a plain prompt goes|which route completes a"
        " prompt|which path returns the complete text|which URL is right for a single prompt|which"
        " route gives the whole answer in one piece|where my program sends inputs}"
    ),
    (
        "{receive tokens one by one|show text while it is written|get every token"
        " immediately|follow the generation live|print words as they come|read a stream of"
        " tokens|display the answer bit by bit}~{which route streams|how tokens are streamed|where"
        " I get a stream of tokens|which route sends every token at once when it is ready|which"
        " path gives server-sent events for a prompt}"
    ),
    (
        "{have a chat over HTTP|send messages with roles|build a chatbot|send a system prompt and a"
        " user message|talk to the model in turns|post a list of messages|give the model a"
        " conversation}~{which route is for chat|where chat messages go|which URL takes"
        " messages|which address a chat program uses|which path accepts a conversation}"
    ),
    (
        "{keep my OpenAI code|use the openai package|call tgi from an OpenAI client|move an app"
        " from OpenAI to tgi|reuse a program for OpenAI}~{whether my OpenAI client works|whether"
        " tgi speaks the OpenAI API|whether programs for OpenAI run with tgi|if the openai library"
        " can be used|whether I have to change my OpenAI app}"
    ),
    (
        "{send several prompts at once|use the completions API of OpenAI|complete a list of prompts"
        " in one request|use legacy completions}~{which route takes several prompts|what the"
        " completions route does|where OpenAI completions go|how many prompts go into one request}"
    ),
    (
        "{list the served models|get the model list|see which models are offered|ask the server for"
        " its models|fill a menu with models}~{which models are served|which route lists"
        " models|where the list of models is|how a client learns the names of the models}"
    ),
    (
        "{check that the server is alive|check readiness|set up a readiness check|set up a liveness"
        " probe|let a load balancer test the server|test the server from Kubernetes|find out if the"
        " server is up|watch whether the server is ready}~{which path a probe should call|whether"
        " the server is ready|which route is the health check|how a load balancer knows that the"
        " server lives|what Kubernetes should poll|where readiness is reported}"
    ),
    (
        "{see the limits of the server|read the version over HTTP|get the model id from the"
        " server|ask the server for its limits|find out the server version}~{which route tells the"
        " limits|where the version is shown|where I can read the limits|which path returns"
        " information about the server|where the server says what it is}"
    ),
    (
        "{see which backend is running|find out the active backend|know what backend is in use"
        " now|look at the agreement of the backend}~{which backend is running|which backend is"
        " active|where the active backend is shown|what backend the server is using at the moment}"
    ),
    (
        "{monitor the server|connect Prometheus|scrape the server|draw a dashboard|collect"
        " statistics|see how many requests were served|get latency numbers}~{which path Prometheus"
        " scrapes|where the metrics are|where the counters are|which route has the statistics|what"
        " our monitoring should read}"
    ),
    (
        "{count the tokens of a text|tokenize a text|see how many tokens a prompt has|split a"
        " sentence into tokens|get the ids of the tokens|measure the length of a text in"
        " tokens}~{how many tokens my text has|which route counts tokens|how my text is cut into"
        " tokens|how long a prompt is in tokens|where I can tokenize}"
    ),
    (
        "{see the rendered chat template|count the tokens of a conversation|tokenize messages|see a"
        " chat as the model gets it}~{how many tokens my messages have|what the chat template makes"
        " of my messages|which route renders the chat template}"
    ),
    (
        "{read the API documentation|try the API in the browser|browse the routes|find the docs of"
        " the API|open an interactive page of the API}~{where the API is documented|where the docs"
        " are|whether there is interactive documentation|which page shows all routes|whether there"
        " is a page on the API}"
    ),
    (
        "{deploy on SageMaker|use tgi on SageMaker|host a model on Amazon SageMaker|run behind a"
        " SageMaker endpoint}~{which route SageMaker calls|whether SageMaker works|what SageMaker"
        " needs|which path is there for SageMaker}"
    ),
    (
        "{deploy on Vertex AI|use tgi on Vertex|host a model on Google Vertex|run behind a Vertex"
        " endpoint}~{which route Vertex AI calls|whether Vertex works|what Vertex AI needs|which"
        " path is there for Vertex}"
    ),
    (
        "{ping the server|send a ping}~{what /ping does|whether there is a ping route|how /ping"
        " differs from /health}"
    ),
    (
        "{serve my own model|serve a model from a folder|choose the model|load a checkpoint from"
        " disk|use another model than the demo|serve a model from the hub|load my fine-tuned"
        " weights|point the server at a directory with weights}~{how the server knows which model"
        " to take|where I name the model|how my own model is served|how a local folder is"
        " served|which option names the model}"
    ),
    (
        "{change the port|use another port|move the server to port 8080|listen on a free port|avoid"
        " a port that is taken|run two servers on different ports|know the default port}~{which"
        " port is the default|on which port the server listens|how the port is changed|what to do"
        " when the port is occupied|where I reach the server by default}"
    ),
    (
        "{bind the server to one address|listen on localhost only|choose the network"
        " interface|change the listening address|bind to a certain IP}~{which address the server"
        " listens on|how the address is set|which option sets the IP address|to which interface tgi"
        " binds}"
    ),
    (
        "{force a backend|choose the backend myself|take another backend than the automatic"
        " one|make tgi use a certain backend|pin the backend|override the backend}~{how the backend"
        " is chosen|which option selects the backend|which backend is taken by default|how one"
        " backend is enforced}"
    ),
    (
        "{list the backends|see which backends work here|check what backends are usable|see the"
        " installed backends|learn why a backend is not usable}~{which backends I have|which"
        " backends are usable here|which backends work on this computer|what command lists the"
        " backends|whether my backend is usable}"
    ),
    (
        "{run tgi on AMD|run tgi on my Radeon|use an NVIDIA GPU|use a TPU|run on Gaudi|use an Intel"
        " GPU|use my graphics card|see the list of supported hardware|use accelerators of another"
        " vendor}~{which hardware is supported|which accelerators tgi runs on|whether my AMD GPU"
        " works|whether my graphics card is supported|which devices can be used|what kinds of"
        " hardware there are|whether TPUs are supported|on which chips it runs}"
    ),
    (
        "{understand backends|know the meaning of backend|explain what a backend is}~{what a"
        " backend is|what the word backend means here|what is called a backend|how tgi finds a"
        " backend|how backends are discovered|what a backend does|what one understands by a"
        " backend}"
    ),
    (
        "{run tgi without a GPU|use tgi on a plain computer|serve a model on the processor|run on a"
        " laptop|do without an accelerator|work with a CPU only}~{whether tgi runs without a"
        " GPU|whether a GPU is needed|whether a processor is enough|what the CPU backend"
        " does|whether my laptop is enough|if it works on a machine with no graphics card}"
    ),
    (
        "{test without a model|use the null backend}~{what the null backend does|why there is a"
        " null backend|what a backend without a model is good for|what null is for}"
    ),
    (
        "{write a backend|add support for our own chip|support new hardware|bring a new accelerator"
        " to tgi|make tgi run on our device|publish my own backend|connect our processor to"
        " tgi}~{how a backend is written|how our hardware gets supported|what a new backend must"
        " provide|where a backend is registered|how a new chip is added}"
    ),
    (
        "{split a model over several GPUs|use three GPUs|use all my cards|shard the model|run on"
        " several devices|use tensor parallelism|serve a model that one GPU cannot hold}~{which"
        " option shards a model|how many devices are used|how a model is divided over GPUs|how"
        " several cards work together}"
    ),
    (
        "{limit the requests at a time|allow only 20 requests at once|cap parallel requests|take"
        " more requests at the same time|restrict the number of clients|allow at most 300 requests"
        " together}~{how many requests run at a time|which option limits parallel requests|how many"
        " clients are served together|how to limit concurrency}"
    ),
    (
        "{get rid of error 429|understand status 429|react to a 429}~{what 429 means|why I get"
        " 429|why the server says overloaded|what is wrong when 429 comes back|why my client sees"
        " 429|what to do about 429}"
    ),
    (
        "{get rid of error 422|understand status 422|react to a 422}~{what 422 means|why I get"
        " 422|why my request is refused as invalid|what is wrong when 422 comes back|why my client"
        " sees 422|what to do about 422}"
    ),
    (
        "{limit the length of prompts|refuse long prompts|set the longest prompt|bound the"
        " input|keep prompts short|forbid prompts above 1000 tokens|protect the server from huge"
        " inputs}~{how long a prompt may be|which option limits the input|how long prompts are"
        " refused|how prompts can be limited}"
    ),
    (
        "{limit prompt and output together|bound the total length|set the maximum of input plus"
        " output|limit the sum of prompt and answer}~{which option limits the sum of prompt and"
        " output|how long prompt and answer may be together|what bounds the total length}"
    ),
    (
        "{set the size of the KV cache|limit the KV cache|give the cache less memory|hold more"
        " tokens in the cache}~{how big the KV cache is|which option sets the cache size|how many"
        " tokens the cache holds}"
    ),
    (
        "{limit the prefill|limit the prompt tokens in a step|make prefills smaller|bound the"
        " prefill of a batch}~{how many prompt tokens a step takes|which option limits the prefill}"
    ),
    (
        "{require a key|protect the server|keep strangers out|demand an API key|add"
        " authentication|allow only clients with a password|secure my server|make sure that only my"
        " team gets in}~{how the server is protected|which option sets the key|how clients send the"
        " key|how unknown people are kept out|whether a key can be required}"
    ),
    (
        "{quantize the model|serve AWQ weights|load GPTQ weights|save memory with fp8|use 4-bit"
        " weights|load a quantized checkpoint|run a smaller form of the weights}~{which"
        " quantizations there are|whether AWQ works|whether GPTQ is supported|which option"
        " quantizes|how quantized weights are served}"
    ),
    (
        "{hold the weights in half precision|use bfloat16|load the weights in float16|choose the"
        " precision|run in float32|change the data type of the weights}~{which option sets the"
        " precision|which data types there are|how weights are kept in bfloat16|which precision I"
        " can choose}"
    ),
    (
        "{get the logs as JSON|write logs that a machine can read|log JSON lines|feed the logs to a"
        " collector|switch to structured logs}~{how logs become JSON|which option changes the log"
        " format|whether logs can be JSON|how a log collector can read the logs}"
    ),
    (
        "{use a LoRA adapter|load adapters|serve several fine-tuned variants|choose an adapter per"
        " request}~{how LoRA works here|which option loads adapters|how a request names its"
        " adapter|whether adapters are supported}"
    ),
    (
        "{call the server from a web page|allow a browser to call|set the allowed origin|configure"
        " CORS}~{why my web page may not call the server|which option is for CORS|how a browser"
        " gets access}"
    ),
    (
        "{get longer answers|get shorter answers|set the length of the answer|limit the number of"
        " new tokens|let the model write more|keep the text from being cut}~{why my answers are cut"
        " off|why the text ends so early|which parameter sets the length|how many tokens are"
        " generated|how the output gets longer|what makes the answer longer}"
    ),
    (
        "{make the answers more random|make the answers less random|control the randomness|get more"
        " creative text|get the most likely tokens|decode greedily}~{what temperature does|which"
        " parameter sets the randomness|how random the sampling is|how answers become more"
        " creative|what controls the randomness}"
    ),
    (
        "{use nucleus sampling|keep only the most probable tokens up to a sum|sample from the"
        " nucleus}~{what top_p does|what top_p changes|how top_p works|which effect top_p has|what"
        " the value of top_p means|how top_p changes the sampling}"
    ),
    (
        "{sample from the best tokens only|keep a fixed number of likely tokens|drop all but the k"
        " best tokens}~{what top_k does|what top_k changes|how top_k works|which effect top_k"
        " has|what the value of top_k means|how top_k changes the sampling}"
    ),
    (
        "{stop the model from repeating itself|avoid loops in the text|make repeated words"
        " rarer|keep the output from going in circles|punish repetition}~{why the model repeats"
        " itself|which parameter is against repetition|what helps against repeated words|how loops"
        " are avoided}"
    ),
    (
        "{get the same text again|repeat a sampled answer|make sampling reproducible|get identical"
        " results every time|have the same output on every run}~{what a seed does|how sampling"
        " becomes repeatable|why each run gives another text|how I get equal answers|which"
        " parameter makes results reproducible}"
    ),
    (
        "{end the text at a word|stop at a certain string|stop the generation when a marker"
        " appears|cut the answer at a stop word|finish as soon as a string comes up}~{what stop"
        " does|how generation is ended at a word|which parameter ends the text at a string|how stop"
        " sequences work}"
    ),
    (
        "{see log probabilities|get the probability of each token|get details on the tokens|see the"
        " finish reason of an answer}~{what details does|how log probabilities are returned|which"
        " parameter shows the tokens}"
    ),
    (
        "{know the finish reasons|learn why a generation ended|handle each finish reason}~{which"
        " finish reasons there are|why a generation ends|what values finish_reason takes|which"
        " values the finish reason can take|how a generation can end}"
    ),
    (
        "{force JSON|make the answer follow a schema|get valid JSON in all cases|restrict the"
        " answer to a regular expression|get structured output|guarantee the form of the"
        " answer|bind the answer to a JSON schema}~{how JSON is guaranteed|what a grammar"
        " is|whether the answer can be forced into a schema|how structured output works|whether a"
        " JSON schema can be enforced}"
    ),
    (
        "{let the model call functions|use tools|give the model functions|send tools with a"
        " chat|have my functions called}~{what tools are|whether the model can use functions|how"
        " tool calls work|how functions are offered to the model|whether function calling works}"
    ),
    (
        "{understand continuous batching|serve many users at once|let requests join a running"
        " batch|batch requests}~{what continuous batching is|how continuous batching works|why"
        " requests need not wait for a batch|how many users are served together|how requests are"
        " batched|when a new request joins}"
    ),
    (
        "{understand the KV cache|avoid computing earlier tokens again}~{what the KV cache is|why"
        " there is a KV cache|what the KV cache holds|what a KV cache is kept for|why keys and"
        " values are kept|what use the KV cache has}"
    ),
    (
        "{understand prefill and decode|tell prefill from decode}~{what prefill is|what decode"
        " is|how prefill and decode differ|what the difference of prefill and decode is|what"
        " happens in the prefill|what sets decode apart from prefill}"
    ),
    (
        "{reuse the beginning of a prompt|share a common system prompt|avoid computing the same"
        " prefix again|save work on equal prompt beginnings}~{what the prefix cache does|whether a"
        " shared beginning is computed again|whether equal prompt starts cost twice|what happens"
        " when prompts begin alike|whether the same long system prompt is computed for each"
        " request|how work on common prefixes is saved}"
    ),
    (
        "{speed up decoding with a small model|use a draft model|use speculative decoding|let a"
        " small model guess ahead}~{what speculative decoding is|what a draft model does|what a"
        " draft model is for|why a small model helps a large one|how guessing tokens ahead works}"
    ),
    (
        "{understand the processes of tgi|know the process layout}~{which processes there are|what"
        " the engine does|what the front does|how many processes run|which process answers HTTP|how"
        " engine and front share the work}"
    ),
    (
        "{survive a crash of the engine|recover from an engine failure}~{what happens when the"
        " engine crashes|what becomes of requests after a crash|whether requests are lost when the"
        " engine dies|what tgi does if the engine is killed|whether a dead engine comes back|how"
        " tgi recovers from a crash}"
    ),
    (
        "{know the programming language of tgi|read the source of tgi|change the code of tgi}~{what"
        " language tgi is written in|which language was used|whether tgi is Python|whether it is"
        " written in Rust|what the code is written in}"
    ),
    (
        "{use tgi commercially|know the licence|ship tgi in a product|check the legal side}~{which"
        " licence tgi has|whether tgi is free|whether tgi is open source|what the license"
        " allows|under what terms tgi is published|if I may use tgi in my company}"
    ),
    (
        "{move from TGI 3|upgrade from version 3|use old clients|know the version}~{which version"
        " this is|whether it is compatible with TGI 3|whether my TGI 3 clients still work|what"
        " became of TGI 3|if old programs can stay as they are}"
    ),
    (
        "{serve a Llama model|serve Qwen|run GPT-2|know the supported models|check whether my model"
        " is supported|serve a Mistral checkpoint}~{which models are supported|which families"
        " run|whether Llama works|whether Mistral is supported|whether Qwen can be served|what"
        " models I can serve}"
    ),
    (
        "{stop the server|shut the server down|end the server without losing requests|stop tgi"
        " cleanly|terminate the server properly|take the server down}~{how the server is"
        " stopped|what happens at shutdown|how to stop tgi|which signal ends the server|how long"
        " open requests get when it stops}"
    ),
    (
        "{send a request with curl|see an example request|try the server from a shell|call the"
        " server by hand|copy a request|test it with curl}~{how a request looks|what a curl call"
        " looks like|how I try it with curl|what I paste into a shell}"
    ),
    (
        "{see all options|configure tgi|read about the flags|set options by environment"
        " variables|get help on the options|find the settings}~{which options there are|where the"
        " options are described|whether environment variables work|where all flags are listed|how"
        " tgi is configured}"
    ),
)
