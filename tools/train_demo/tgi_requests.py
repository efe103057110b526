"""More informal wordings of the questions about tgi.

`REQUESTS` has one entry per entry of `FACTS`, in the same order. An entry contains question
templates, separated by `~`.
"""

from __future__ import annotations

__all__ = ["REQUESTS"]

_ASK = (
    "{What now|What should I do|Any idea|How|What can I do|Which option|Which setting|What"
    " helps|How do I get there|What would you do}?"
)
_PATH = "{Which route|Which path|Which URL|Which endpoint|Where|What do I call|Which address}"
_RUN = "{run|work|function|start|go|be fast|be usable}"

REQUESTS = (
    (
        "{tgi|TGI}, what {is that|is it|does it do|is it all about|would that be}?~{For those who"
        " do not know it|For a newcomer|For my notes|In brief|Shortly}: what is"
        " {tgi|TGI}?~{Say|Explain|Tell me} in {one line|a few words|plain words|your own words}"
        " what {tgi|TGI|this project} {is|does}.~{Somebody|A student|My mother|The press} asked"
        " {about|for a description of} tgi. {What is it|What can I answer}?~{I need|Please give"
        " me|Write|Have you got} a {description|definition|summary|explanation} of {tgi|TGI|Text"
        " Generation Inference}.~What {good|use} is {tgi|TGI}{| to me| to us| to a"
        " company}?~{People talk about|I keep hearing of|I came across} {tgi|TGI|Text Generation"
        " Inference}. {What is it|What does it do|What is that}?~What {is served|gets served} by"
        " {tgi|TGI}?"
    ),
    (
        "{How do I|How does one|How would I} {spin up|kick off|power up|switch on|turn on|get"
        " up|boot up|set off|open|crank up} {tgi|the server|the thing|a tgi server|this"
        " server}?~{Which|What} {command|line|words} {starts|boots|spins up|kicks off|opens} {the"
        " server|tgi|everything}{| from a shell| in a console| on the command line}?~{pip install"
        " is through|The packages are there|Installation finished|All is set up}. {How do I"
        " start|And now|What next|Which command}?~{From|In|With} {bash|a console|a shell|one line},"
        " how {is tgi started|does one start tgi|do I get a server}?~{I want|Give me} a server,"
        " {now|quickly|please}. What {do I type|is the command}?~{The quickest|The shortest|The"
        " simplest|The fastest} way to {a running server|start|get tgi running}?~{How|With what} do"
        " {I|we} {make the server run|get it started|begin serving|bring tgi to life}?"
    ),
    (
        "{Hey|Hi|Hello|Sorry}, {who is this|who are you|who is there|whom do I talk to}?~{Who|What}"
        " {is it that|exactly} {replies|writes back|talks to me|is chatting with me|sits at the"
        " other end}{| now| here}?~{Could|May|Can|Might} {I|we} {have|get|hear|ask for} your name{|"
        " please}?~{Your name|The name}, {please|what is it}?~{By the way|Now|So}, what {are you|is"
        " your name|kind of thing are you}?~{Which|What} {machine|program|being|assistant|model}"
        " {wrote that|answers here|do I write to|gives me the answers}?~{Is this|Am I talking to}"
        " {a person|Llama|GPT|a big model|a human being|the demo}?~Say {something|a word} about"
        " {yourself|who you are}.~{Who|What} {reads|gets|receives|handles|looks at} {my"
        " messages|this chat|what I write|my questions}?~{Who|What} is {behind|in} {this chat|these"
        " messages|this window|the answers}?~{The one|Whoever} {behind this chat|who replies|on the"
        " other side}, {who is it|what is it|is it a model}?"
    ),
    (
        "{What|Which things|Which jobs|Which tasks} {could|would|might} you {do|take"
        " on|manage|carry through|perform} {for me|for us|for somebody|for a user}?~{Where|With"
        " which problems|In which matters} {are you of use|can you be of help|do you help}?~{Tell"
        " me|Show me} {your talents|your strengths|what you have learned|what you are capable"
        " of}.~{What is|What are} {your job|your tasks|your field|your talents}?~{Which|What sort"
        " of|What kind of} {requests|problems|tasks|questions} {suit you|can I give you|do you"
        " handle|are for you}?"
    ),
    (
        "{How|What} {many parameters|big a model|large a network} {are you|do you have|is"
        " it}?~{Your|The demo's} {parameters|weights}: how many {are there|are they}?~{Are you|Is"
        " the demo} {larger than|as big as|smaller than} {GPT|Llama|other models}?~{Count your|Tell"
        " the number of your} {weights|parameters}.~{How|Just how} {tiny|little|small|big} {are"
        " you|is the demo model}{| really}?"
    ),
    (
        "{What|Which text} did you {learn|read|see} {in training|to become what you are|when you"
        " were trained}?~{On|From} {what|which} {text|data|material|corpus|source} {does your"
        " training rest|were you made|do you know things|was the demo trained}?~{How did|Where did}"
        " you {get|acquire|pick up} your {language|words|knowledge|English}?~{Who wrote|Where"
        " is|What is} the text you {were trained with|learned from}?~{Is your training data|Was"
        " your training text} {public|from the web|copied|written by people}?"
    ),
    "{One prompt in, one text out|A prompt goes in and the full text comes back}: "
    + _PATH
    + " {is that|does that}?~{My script|A cron job|My program|The app} {needs|wants|should get} {a"
    " completion|the whole text|a finished text|a plain completion} {for a prompt|at once|in a"
    " single response}. "
    + _PATH
    + "?~"
    + _PATH
    + " {gives|returns|delivers} {the finished text|a complete answer|the whole completion|all the"
    " text in one response}?~{No streaming|No chat|Not as a stream}, {just the text|only one"
    " answer}. "
    + _PATH
    + "?~{How do I|Where do I} {post|send} {inputs and parameters|raw text|one prompt}{| and wait"
    " for the result}?",
    "{Each|Every} {token|word|piece} should {come|be sent|reach me|be shown} {as soon as it"
    " exists|right when it is there|immediately|without delay}. "
    + _PATH
    + "?~"
    + _PATH
    + " {streams|gives a stream|sends one token after another|sends pieces of the text}{| for a"
    " prompt| for raw text| from a prompt}?~{I prefer|We prefer|I like} {a"
    " stream|streaming|tokens one by one}{| to one big answer}. "
    + _PATH
    + "?~{The typewriter effect|A live display|Text that grows on the screen}: {how|which route"
    " does that|where from}?~{Does|Will} {the server|tgi} {send|give} {tokens|words} {early|piece"
    " by piece|before the end}?",
    _PATH
    + " {takes|accepts|wants|reads} {messages|roles and messages|a list of messages|a dialog|what"
    " user and assistant said}?~{For|In} a {chat|dialog|conversation|chat app}, "
    + "{which route|which path|what do I call|which address|where do I post}?~{User|System|System,"
    " user} and assistant {messages|turns}: {where do they go|which route|what takes them}?~{My"
    " chat page|A chat client|Our bot} {needs|asks for|wants} {a URL|an address|an endpoint|a"
    " route}. Which?",
    "{Does|Will|Would|Can|Could} {my|our|an|the} {OpenAI program|OpenAI app|app for the OpenAI"
    " API|openai client|code with the openai library} {"
    + _RUN[1:-1]
    + "} {with tgi|here|against this server|without changes}?~{I use|We use|My code uses|The"
    " program uses} {the openai library|the openai package|OpenAI's client|the client of OpenAI}."
    " {Is that fine|Does that work with tgi|Can I go on with it|Will it work}?~{Is|How} {tgi|this"
    " server|it} {OpenAI compatible|compatible with OpenAI}?~{Replace|Swap} OpenAI {by|for} tgi:"
    " {possible|how|does it work}?",
    "{A list|An array|A batch} of prompts in one {call|request|post}: {which route|where|how}?~"
    + _PATH
    + " {is|does} {/v1/completions style|OpenAI text completion|the completions API}?"
    "~{Can|May} {one|a single} request {hold|carry|contain} {two|many|several|more} prompts?",
    _PATH
    + " {tells|says|answers|lists} {which models there are|what models are on offer|the models|the"
    " served model}?~{My client|A web UI|The menu} {asks for|wants to see|must know} {the"
    " models|a model list|all models}. "
    + _PATH
    + "?~{Is there|Do you have} {a route|a list|a way|something} {with|that lists|to see} {the"
    " models|all the models on offer|the offered models}?",
    "{Docker|Kubernetes|Nomad|systemd|Our cluster|The load balancer|The proxy|A watchdog}"
    " {must|should|wants to|has to|needs to} {know|find out|test|check} {if the server is"
    " up|whether it is ready|that it lives|whether it is healthy}. "
    + _PATH
    + "?~"
    + _PATH
    + " {does|should|would|could} {a readiness probe|a liveness probe|a health probe|a load"
    " balancer|a monitor} {call|poll|ask|use|hit|query}?~{Ready or not|Alive or dead|Up or down}:"
    " {where do I see that|which route tells}?~{Before sending requests|At startup} {I want to|my"
    " script should|we must} {wait until the server is ready|know that it is up}. " + _PATH + "?",
    _PATH
    + " {publishes|has|gives|contains|holds} {the version|the limits|the version and the limits|the"
    " model id|what the server allows}?~{Which|What} {version|model|limits} {does this server"
    " have|is in force|are in force}? {Where is that shown|Which route tells}?~{A client|My"
    " program} {must|wants to|should} {know|read} {the limits|the model id|the version}{|"
    " first}. " + _PATH + "?",
    _PATH
    + " {names|tells me|shows|says} {the backend|what backend runs|which backend is at work|the"
    " backend that is active|the chosen backend}?~{Is it|Does it run on} {the CPU|cuda|the GPU}"
    " {backend|or not}? {Which route tells|Where do I see that}?",
    "{Prometheus|Grafana|Our monitoring|The dashboard|Datadog} {needs|wants|asks for|is waiting"
    " for} {a path|a target|an address|numbers}. {Which|Which path|What do I enter|Which one}?~"
    + _PATH
    + " {has|gives|exports|shows} {the metrics|numbers|statistics|counters|Prometheus text}?~{Queue"
    " length|Latency|Throughput|The load|The number of requests}: where {is it shown|do I see"
    " it|can I read it}?~{What|Which path} {do I scrape|should be scraped|does one scrape}?",
    "{The number of tokens|The length in tokens|The token ids} of {a text|my text|my prompt|a"
    " sentence}: {which route|where|how}?~{Does|How does|Can} {tgi|the server} {count tokens|tell"
    " how many tokens something has|cut text into tokens for me}?~{My prompt may be too long|Before"
    " I send it}. {How do I count its tokens|Where can I count tokens|Which route counts}?~"
    + _PATH
    + " {helps|is there} {with counting tokens|to count tokens|for token ids}?",
    (
        "{Tokens of|The template of|The rendered text of} {a chat|my messages|a conversation}:"
        " {which route|where|how}?~{What does|How does} {my chat|a conversation} look {after the"
        " template|to the model|as tokens}?"
    ),
    "{Is|Are} there {docs|API docs|documentation|Swagger pages|a reference} {in the browser|on the"
    " server|I can click|of the routes|online}?~"
    + _PATH
    + " {has|shows|serves} {the docs|Swagger|interactive documentation|a description of the"
    " API}?~{I would like|I want} to {click through|look at|play with|explore} {the API|the"
    " routes|the endpoints}. {Where|Which page}?",
    "{SageMaker|Amazon SageMaker|AWS SageMaker} {calls|needs|uses|wants} {which route|what"
    " path|which path}?~{We run on|We move to|Our cloud is} {SageMaker|AWS SageMaker}. "
    + _PATH
    + "?~{Ready for|Made for|Good for} SageMaker?",
    "{Vertex|Vertex AI|Google's Vertex AI} {calls|needs|uses|wants} {which route|what path|which"
    " path}?~{We run on|We move to|Our cloud is} {Vertex|Vertex AI}. "
    + _PATH
    + "?~{Ready for|Made for|Good for} Vertex?",
    (
        "/ping {and|or} /health?~{What is|Explain} /ping.~{A ping|Ping}: {is there one|does it"
        " exist|which route}?"
    ),
    (
        "{I trained|I fine-tuned|We have|There is} {a model of my own|my own model|our own"
        " weights|a checkpoint in /models}. {How is it served|How do I load it|Which option names"
        " it|How do I tell tgi}?~{Instead of the demo|Not the demo but} {a real model|my"
        " model|another model|Llama}: {how|which option|what do I set}?~{Which|What} {option|flag}"
        " {takes|wants|holds} {the model|the folder|the hub id|the path of the weights|the name of"
        " the model}?~{Make|Let} {tgi|the server} {serve|use|take|load} {my folder|a directory|my"
        " weights|a local model}{.|, how?}~{Can|Could} the weights {lie|be|come} {in a folder of"
        " mine|on my disk|from the hub}?"
    ),
    "{The port|Port 3000|3000} is {in use|busy|occupied|blocked|not free|used by something else}. "
    + _ASK
    + "~{Address already in use|The port is in use}: {what now|what do I do|how do I choose"
    " another}?~{The server|tgi|It} {should|must|shall} {run|listen|be} on {port 8000|another"
    " port|port 4000|a port of my choice}. "
    + _ASK
    + "~{What|Which} {port|number} {without options|if I set nothing|as it comes|when I change"
    " nothing|by itself}?~{Where|At what port} {is|will} the server {be"
    " |}{reachable|found|listening}{| by default| if I do not choose}?",
    "{Only one interface|Just localhost|A single address|Only 10.0.0.5} {should|must|may} {be"
    " used|listen|answer}. "
    + _ASK
    + "~{Which|What} {option|flag|setting} {binds|ties|limits} {it|tgi|the server} to {an IP|one"
    " address|an interface|localhost}?~{By default|Without options}, {which address|what IP|which"
    " interface}?",
    "{tgi picks|It picks|The server takes} {the wrong backend|another backend than I want|the CPU"
    " backend}. {How do I change that|"
    + _ASK[1:-2]
    + "}?~{Which|What} {option|flag|setting} {fixes|decides|names|forces} {the backend|which"
    " backend is used}?~{Take|Use|I want} {exactly this backend|the rocm backend|the tpu"
    " backend|only the cpu backend}{. How?|, how do I say that?}~{Must|Can} I {name|specify|say}"
    " the backend{| myself}?",
    (
        "{What|Which} {backends|of the backends} {can I use|can run|are ready|would work|are there}"
        " {here|on this computer|on my computer|with my machine|on my system}? {How do I see"
        " that|Which command|Who tells me}?~{A list of|I want to list|Show me} {my backends|all"
        " backends with their state|the usable backends}{.|, how?|, which command?}~{Why is|Why"
        " can} {my backend|the cuda backend} not {usable|be used|run}? {Which command says so|How"
        " do I find out}?"
    ),
    "{Will|Does|Can|Could|Would} {tgi|it|this|the server} {"
    + _RUN[1:-1]
    + "} {on|with} {my|an|our|a} {AMD|NVIDIA|Intel|Radeon|GeForce|Habana|Google"
    " TPU|Trainium|Instinct}"
    " {card|GPU|chip|accelerator|machine|device|board}"
    "?~{AMD|NVIDIA|Intel|ROCm|CUDA|TPU|Gaudi|Neuron|XPU}:"
    " {supported|possible|does it work|is it supported|is there a backend}?~{Is|Are}"
    " {my|our|an|the} {AMD GPU|NVIDIA cards|Intel GPU|TPU|Gaudi cards|Radeon}"
    " {supported|enough|usable|of any use}?~{What|Which} {kinds|sorts|types} of"
    " {hardware|accelerators|chips|devices|machines} {are there backends for|can tgi drive|will"
    " do|does it know|are usable}?~{Give me|Tell me|Enumerate|List|Write down} {the|all the}"
    " {hardware|accelerators|chips|platforms} {tgi knows|it runs on|for which there is a"
    " backend|that you support}.",
    (
        "{When you say backend|When people say backend|If tgi speaks of a backend}, {what is"
        " meant|what do you mean|what is that}?~{A backend|The term backend|Backend}, {what is"
        " that|what does it mean|what would that be} {in tgi|here|with tgi|for tgi}?~{Define|Please"
        " define|Give a definition of} {backend|a backend|the word backend}.~{How|By which means}"
        " {does|can} the core {find|know|see|discover} {a plugin|a backend|what backends"
        " exist}?~{What|Which part} {runs|computes} the model{| in tgi}?"
    ),
    (
        "{No GPU|No graphics card|No accelerator|Only a CPU|Just a laptop} {here|at hand|in my"
        " machine|in our office}. {Is that a problem|Can I use tgi|Does it still work|Will tgi"
        " run|Is tgi an option}?~{Without|If I have no|Though we have no} {GPU|graphics"
        " card|accelerator|special card}, {does tgi work|can I use it|will it run|is it"
        " usable}?~{Does tgi|Does it} {insist on|require|demand|depend on} a {GPU|graphics"
        " card|accelerator}?~{What|Which backend} {does tgi use|runs} {on a plain machine|when"
        " there is only a processor|if no GPU is found}?"
    ),
    (
        "{null|The null backend|A backend named null}: {what for|why|what is it}?~{Which|What}"
        " {purpose|role|job} {has|does} the null backend{| have}?~{Does|What does} the null backend"
        " {compute|run} {anything|a model}?"
    ),
    (
        "{We|Our firm|My startup|Our lab} {design|designs|make|sell} {an accelerator|a chip|a"
        " processor|our own hardware}. {How do we get tgi to run on it|How do we write a"
        " backend|What must be written|How is it added to tgi}?~{New|Unknown|Our|A new piece of}"
        " {hardware|silicon|accelerator}: {how is it supported|how do I add it|what do I write|how"
        " can tgi use it}?~{What|Which classes|Which parts} {does|must|should} {a backend of my"
        " own|a new plugin|a home-made backend} {have|contain|provide}?~{Extend|Teach} tgi {with|to"
        " use} {another device|a new chip|my hardware}{.|, how?}"
    ),
    "{Two|Six|Eight|Several|A few} {GPUs|cards|accelerators|devices} {are|sit} in {the machine|my"
    " server|the box}. {How do I use them all|Which option spreads the model|Which option|How is"
    " the model divided}?~{One card|A single GPU|One device} {is too small|is not enough|cannot"
    " hold the model|has too little memory}. {Which option splits it|How do I use more|"
    + _ASK[1:-2]
    + "}?~{Which|What} {option|flag} {sets|is for|says} {the number of GPUs|how many cards to"
    " use|tensor parallelism|sharding}?",
    "{Not more than|At most|No more than|Only|A maximum of} {5|16|30|80|256|500}"
    " {requests|users|clients|generations} {should run|may run|shall be served|are allowed|can be"
    " taken} {at a time|together|at once|in parallel|simultaneously}. "
    + _ASK
    + "~{Which|What} {option|flag|limit} {bounds|caps|restricts|sets} {simultaneous requests|how"
    " many requests run at once|the requests in flight|concurrency|parallel users}?~{Too"
    " many|Hundreds of|Lots of} {users|requests} {arrive|come} at once. {How do I cap them|How do"
    " I limit that|Which option}?",
    (
        "{429|Code 429|Status 429|HTTP 429|Too many requests}, {why|what now|what is that|what does"
        " that say|what went wrong|what is the cause}?~{I get|There is|The log shows|My script"
        " failed with|The answer was|The client stopped with} {a 429|code 429|status 429|429 all"
        " the time}. {Why|What does it say|What is the cause|What happened}?"
    ),
    (
        "{422|Code 422|Status 422|HTTP 422|Unprocessable}, {why|what now|what is that|what does"
        " that say|what went wrong|what is the cause}?~{I get|There is|The log shows|My script"
        " failed with|The answer was|The client stopped with} {a 422|code 422|status 422|422 all"
        " the time}. {Why|What does it say|What is the cause|What happened}?"
    ),
    "{Nobody|No one|No user|No client} {should|may|shall|must} {send|post|be able to send} {a huge"
    " prompt|an overlong prompt|very long prompts|prompts of a book's length|such long inputs}. "
    + _ASK
    + "~{Prompts|Inputs|Users' prompts} {are|get|become} too long. {How do I limit them|Which"
    " option|Where is the limit set|How do I bound them}?~{Which|What} {option|flag|limit} {is"
    " for|bounds|caps|sets} {the prompt|the input alone|prompt length|the longest input}?~{A"
    " prompt|The input|A request's prompt} {should|must|may} have at most {500|1000|4000|8000}"
    " tokens. " + _ASK,
    "{Which|What} {option|flag|limit} {is for|bounds|caps|sets|holds for} {the total|input and"
    " output together|prompt and answer together|the whole of prompt and output|both prompt and"
    " output}?~{Prompt and answer|Input and output|Question and answer} {together|in sum|as a"
    " whole} {should|must|may} have at most {2000|4096|8192} tokens. "
    + _ASK
    + "~{How long may|How long can} {prompt and output|a request with its answer} {be|get}"
    " {together|in total|in sum}?",
    "{Which|What} {option|flag|limit} {is for|bounds|sets} {cache memory|the tokens of the"
    " cache|the size of the KV cache}?~{The KV cache|The cache} {eats|takes|uses} {too much"
    " memory|all the memory}. "
    + _ASK
    + "~{How many|The number of} tokens {fit|may be} {into|in} the {cache|KV cache}{?|, which"
    " option?}",
    "{Which|What} {option|flag|limit} {is for|bounds|sets} {prefill tokens|the size of a"
    " prefill|the prompt tokens of one step}?~{Prefill steps|Large prefills} {slow everything"
    " down|are too long|use too much memory}. " + _ASK,
    "{Outsiders|Other people|Unknown clients|People from outside|Someone else} {must not|should"
    " not|may not|cannot be allowed to} {use|reach|call} {the server|tgi|it|our model}. "
    + _ASK
    + "~{Which|What} {option|flag|setting} {demands|asks for|requires|sets} {a password|a key|a"
    " token|a secret}?~{My server|The server|The port} is {open to everyone|public|on the"
    " internet}. {How do I protect it|How do I lock it|How do I demand a key|What"
    " helps}?~{Only|Just} {clients with a key|people with a password|my colleagues|paying users}"
    " {should|may} {get in|be served|use it}. " + _ASK,
    (
        "{AWQ|GPTQ|fp8|bitsandbytes|4-bit|8-bit|int8|Quantized} {weights|models|checkpoints}:"
        " {possible|supported|how|which option|does tgi take them}?~{My checkpoint|The model I"
        " have|This model} is {in AWQ|in GPTQ|quantized|in fp8|4-bit}. {Can tgi serve it|Which"
        " option|Does that work|Is it supported}?~{The model|It} {takes|needs|uses} too much"
        " memory. {Can I quantize it|Can it be quantized|How do I make the weights"
        " smaller}?~{Does|Will|Can} tgi {understand|read|take|serve|load} {AWQ|GPTQ|fp8|quantized"
        " weights|bitsandbytes}?"
    ),
    "{Which|What} {option|flag|setting} {is for|sets|picks} {bf16|half precision|the number"
    " type|float16 or bfloat16|the dtype}?~{I want|We need|Use} {bf16|fp16|16-bit weights|full"
    " precision|bfloat16 weights}. {How|Which option|What do I set}?~{Weights|The parameters|All"
    " weights} {should be kept|should be|must be} in {bf16|float32|16 bits|half precision}. "
    + _ASK,
    "{Elasticsearch|Loki|Splunk|Our log system|The log parser} {wants|needs|expects|reads}"
    " {JSON|JSON logs|one JSON object per line|structured logs}. "
    + _ASK
    + "~{Which|What} {option|flag|switch} {is for|gives|turns on} {JSON logs|structured"
    " logging|logs in JSON}?~{Logs|The log|Log lines} {in|as} JSON{: how?|, please.|?}",
    (
        "{LoRA|Adapters|A LoRA adapter|Several adapters}: {how|supported|possible|which option}?~{I"
        " have|We trained} {an adapter|LoRA weights|two adapters}. {How do I serve them|Which"
        " option|How does a request choose}?"
    ),
    "{The browser|Chrome|Firefox|My web page} {blocks|refuses|complains about} {the call|CORS|my"
    " request|the origin}. "
    + _ASK
    + "~{CORS|Cross-origin calls}: {how|which option|what do I set}?",
    (
        "{The answer|The output|The text|Every answer|The reply} {stops|breaks off|ends|is cut} {in"
        " the middle|too soon|after a few words|after 20 tokens|too early}. {How do I get"
        " more|Which parameter|Why|What do I raise|How do I make it longer}?~{I want|I need|Please"
        " give me|We need} {more|fewer|500|1000|many more} {tokens|words} {in the answer|per"
        " answer|of output|from the model}. {How|Which parameter|What do I set}?~{Which|What}"
        " {parameter|field|value} {gives|allows|means|sets} {more tokens|longer texts|the length of"
        " the output|how much is generated|how many new tokens come}?"
    ),
    (
        "{Which|What} {parameter|field|value} {rules|governs|decides|sets|tunes|determines}"
        " {randomness|how wild the answers are|how random it is|how daring the sampling"
        " is|creativity|the degree of chance}?~{The answers|The texts} are {too wild|too random|too"
        " dull|too boring|always the same|not creative}. {Which parameter|What do I change|How do I"
        " change that}?~{I want|Give me} {no randomness|pure greedy decoding|more surprise|more"
        " variety|less chance}. {How|Which parameter}?"
    ),
    (
        "{What|Which} {does|effect has|influence has|is the use of|is the meaning of|is the job of}"
        " top_p{| in sampling| on the result| for the tokens}?~{If I|When I}"
        " {lower|raise|set|change} top_p, {what happens|what changes|what do I get}?~top_p: {what"
        " is it|what for|meaning|explain}?"
    ),
    (
        "{What|Which} {does|effect has|influence has|is the use of|is the meaning of|is the job of}"
        " top_k{| in sampling| on the result| for the tokens}?~{If I|When I}"
        " {lower|raise|set|change} top_k, {what happens|what changes|what do I get}?~top_k: {what"
        " is it|what for|meaning|explain}?"
    ),
    (
        "{The model|It|My model|The output} {repeats|says|writes} {itself|the same sentence|one"
        " word|everything twice|the same thing} {all the time|over and over|many times|in a"
        " loop|without end}. {Which parameter helps|What can I do|How do I stop it|What"
        " helps}?~{Which|What} {parameter|field|setting} {keeps|stops|prevents|hinders} {the model"
        " from repeating|repetition|loops|words from coming back|it from looping}?~{How|What} {do I"
        " do against|do I prevent|can be done about} {repeated sentences|endless loops|a stuck"
        " model|repetitions}?"
    ),
    (
        "{Every|Each} {run|call|sample|request} {gives|returns|yields} {another text|a different"
        " answer|something else}. {How do I get the same|How do I fix that|What makes it"
        " repeatable|Which parameter}?~{I want|I need|My test needs|Our paper needs} {the same"
        " output|identical text|equal results|reproducible samples|the same sample} {each"
        " time|again|twice|on every run|every time}. {How|Which parameter|What do I set|What is"
        " there}?~{Which|What} {parameter|field|value} {fixes|pins|repeats} {the random numbers|the"
        " sampling|the result|the dice}?"
    ),
    (
        "{Generation|The text|The answer|The model} {should|must|shall} {end|stop|finish} {at|when"
        " it writes|as soon as it writes|with|before} {END|a blank line|a certain string|the word"
        " Human|a marker|three hashes}. {How|Which parameter|What do I set}?~{Which|What}"
        " {parameter|field} {ends|stops|cuts} {the text|generation|the answer} {at a string|when a"
        " word comes|at a marker|early}?"
    ),
    (
        "{I want to see|Show me|I need} {the probabilities|logprobs|the score of every token|the"
        " ids of the generated tokens|why it ended}. {Which parameter|How|What do I"
        " set}?~{Which|What} {parameter|field} {adds|turns on|brings} {details|log"
        " probabilities|information on each token}?"
    ),
    (
        "finish_reason: {what is possible|which values|what are they|what can it be}?~{The"
        " response|My answer|An answer} {says|has|shows} {finish_reason length|a finish"
        " reason|finish_reason|eos_token}. {What else is there|What are the values|Which others"
        " exist}?~{For which|For what} reasons {can|may|does} {a generation|an answer|the text}"
        " {end|finish}?~{What|Which} {values|words|strings} {may|can|will} {finish_reason|the"
        " finish reason} {be|hold|show|contain|take}?"
    ),
    (
        "{The answer|The output|The result|Every reply} {must|should|has to} {be valid JSON|follow"
        " my schema|match a regular expression|fit a JSON schema|have a fixed form}. {How do I"
        " force it|Is there a guarantee|Can tgi force that|How|Can that be"
        " guaranteed}?~{Can|Could|Is tgi able to} {JSON|a schema|the form|the format} {be"
        " |}{forced|guaranteed|enforced|ensured|made certain}?~{I need|We need} {JSON that always"
        " parses|output by a schema|a guaranteed format}. {How|What is there|Does tgi do that}?"
    ),
    (
        "{My functions|Functions of mine|A weather function|Our own functions} {should|shall} be"
        " {called|used|chosen} by the model. {How|Is that possible|What do I send|Does it"
        " work}?~{Does|Can|Could|Will} {the model|tgi|a chat} {use|call|pick|invoke}"
        " {functions|tools|a function of mine|my tools}?~{Function calling|Tool use|Tools|Agents}:"
        " {possible|supported|how|how does that work}?"
    ),
    (
        "{Continuous batching|Batching}: {what is it|how does it work|explain|why}?~{How|In what"
        " way} does {continuous batching|batching} {work|help|function}{| in tgi| in simple"
        " words}?~{Must|Does} {a new request|my request|a late request} {wait|have to wait} {for"
        " the batch|until the others are done|for the running ones}?~{Many|Hundreds of|Ten}"
        " {users|people} {ask|write} at {once|the same time}. How {does tgi serve them|is that"
        " served|are they combined}?"
    ),
    (
        "{KV cache|The KV cache|Keys and values}: {what is it|what for|why|explain}?~{What|Why}"
        " {is|are} {kept|stored|saved} {in the KV cache|in a KV cache|for earlier tokens}?~{Why|For"
        " what reason} {does one|do servers|does tgi|must one} {keep|need|have|use} a KV"
        " cache?~{What would happen|What is lost} without a KV cache?"
    ),
    (
        "{Prefill|Decode|Prefill and decode}: {what is it|what is the difference|explain|what"
        " happens there}?~{How|In what} {does|do|is} prefill {differ|different} from decode{|"
        " steps}?~{What|Which} {comes first|is faster}, prefill or decode?~{The two phases|The"
        " phases} of {generation|inference}: {what are they|explain}?"
    ),
    (
        "{All|Most of|Many of} {my|our} {requests|prompts|calls} {share|begin with|start with|have}"
        " the same {system prompt|introduction|long beginning|prefix|first thousand tokens}. {Is it"
        " computed each time|Is that reused|Does tgi notice|Is work saved|Is it computed"
        " again}?~{Does|Will|Can} {tgi|the server} {notice|reuse|remember|keep} {equal beginnings|a"
        " common start|the same beginning|what was computed for the"
        " prefix}?~{Equal|Identical|Shared|Common} {prefixes|prompt beginnings|system prompts}:"
        " {computed once or again|reused|what happens}?"
    ),
    (
        "{A draft model|Speculative decoding|Speculation|A draft}: {what is it|what for|why|how"
        " does that work|explain}?~{What|Which} {part|job|function|purpose|use} {has|does} {a"
        " draft|the draft model|the small model} {have|play|serve}?~{Why|What for} {two models|a"
        " second small model|a small model besides the large one}?"
    ),
    (
        "{How many|What|Which} {processes|programs|parts} {make up|run in|form|belong to} {tgi|the"
        " server}?~{Front|Engine|The front|The engine}, {what is that|what is its job|what does it"
        " do}?~{Where|In which process} does the {model|scheduler} run?"
    ),
    (
        "{Suppose|Say|Imagine|What if} {the engine|the model process|the backend process}"
        " {crashes|dies|gets killed|falls over|stops} {|in the middle |at night |during a request"
        " }{. What happens|. What then|, what happens|, what then}?~{After|On|In case of} {a"
        " crash|a crash of the engine|an engine failure|a killed engine}, {what happens to the"
        " requests|are requests lost|what does tgi do|do requests go on|who starts it"
        " again}?~{Are|Do} {my requests|open requests|running requests} {gone|lost|survive|saved}"
        " {when|if} the engine {dies|crashes|is killed}?"
    ),
    (
        "{The code|The source|The server|tgi}: {which language|in what language|Python or"
        " what}?~{What|Which language} {did they write it in|is it programmed in|is the code|was"
        " used for tgi|do I need to know to change it}?~{Python|Rust|Go|C++|Java}, or what is"
        " {tgi|it} {made of|written in|built with}?"
    ),
    (
        "{License|Licence|Legal question|Copyright}: {what is it|which one|how about tgi|under what"
        " terms}?~{Can|May|Could} {our company|my firm|I|we} {use|sell|ship|build on|modify}"
        " {tgi|it|this} {|freely |at no cost |commercially }{?|legally?}~{Under|By} {what|which}"
        " {terms|conditions|licence|license} {is tgi available|do I get tgi|can it be used|is it"
        " published}?~{Is|Does} {tgi|it} {cost money|free of charge|proprietary|open}?"
    ),
    (
        "{Which|What} {version|number|release} {have I got|do you have|is it|runs"
        " here}?~{Old|Existing|TGI 3|Version 3} {clients|programs|requests|scripts}: {do they"
        " work|still fine|are they understood|must they change}?~{I come|We come|We migrate|We"
        " switch} from {TGI 3|version 3|the old server}. {What changes|Does everything work|Are my"
        " clients fine}?~{Will|Does|Can} {this server|tgi 4|the new one}"
        " {understand|accept|take|answer} {requests of TGI 3|what TGI 3 clients send|old requests}?"
    ),
    (
        "{Llama|Mistral|Qwen|GPT-2|GPT-NeoX|Qwen3|Gemma}: {supported|possible|does it work|can I"
        " serve it}?~{Could|Can|May|Might} {I|we} {serve|run|load|host|use} {a Llama|Llama 3|a"
        " Mistral|a Qwen|Qwen3|GPT-2|a GPT-NeoX} {model|checkpoint|network}{| with tgi| with it|"
        " here}?~{Which|What} {models|networks|checkpoints|families} {will run|can I take|are known"
        " to tgi|may I use|does it know}?"
    ),
    (
        "{How|In which way} {do I|can I|should I|does one} {end|finish|halt|stop|take down|switch"
        " off|turn off|bring down} {the server|tgi|everything|a running server} {cleanly|gently|the"
        " right way|without losing requests|gracefully|in an orderly way}?~{I want|It is time|We"
        " need} to {stop|switch off|end|shut down} {the server|tgi}. {How|What is the right"
        " way|Which signal|What do I press}?~{A clean|A graceful|An orderly|A safe}"
        " {end|stop|shutdown}{: how?| of the server, how?|, please.}"
    ),
    (
        "{A curl line|A curl example|A sample request|A test call|An example}{, please.|?| would"
        " help.| for me?}~{Can|Could|Would|Will} you {show|give|send|type} {me |us |}{a curl call|a"
        " curl line|an example with curl|a request I can run|a sample request}?~{I have|There is"
        " only} {curl|a shell}. {How do I ask the server|What do I send|What does a call look"
        " like|How do I call it}?"
    ),
    (
        "{Settings|Options|Flags|Configuration}: {where|how|where are they listed|where do I read"
        " about them}?~{Where|How} {can I|do I|does one} {read|find|learn} {about|all} {the"
        " options|flags|settings|what can be configured}?~{Do|Can|May} {options|settings|flags}"
        " {come from|be read from|be put into|be set in} {the environment|environment"
        " variables|variables}?~{A list|An overview|A description} of {all options|the flags|the"
        " settings}{, please.|, where?|?}"
    ),
)
