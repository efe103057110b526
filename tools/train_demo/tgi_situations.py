"""Descriptions of situations in which a fact about tgi is the answer.

`SITUATIONS` has one entry per entry of `FACTS`, in the same order. An entry contains templates,
separated by `~`.
"""

from __future__ import annotations

__all__ = ["SITUATIONS"]

SITUATIONS = (
    (
        "{A colleague|My manager|A visitor|My sister|Somebody} {wants to know|asks|asked} {what tgi"
        " is|what this software is|what tgi does}. {What do I say|What is a good answer|How do I"
        " explain it}?~{So what exactly|Well, what|And what} {is|would be} {this"
        " tgi|tgi|TGI}?~{Give me|I need} {one sentence|a definition|a summary} {on|of|about}"
        " {tgi|Text Generation Inference}.~{Is tgi|Is TGI} a"
        " {database|server|website|library|game|model}?~{Good morning|Hello|Hi}, {what is tgi|what"
        " does tgi do|please explain tgi}?"
    ),
    (
        "{The installation is done|I have installed tgi|Everything is installed|tgi is installed}."
        " {How do I go on|What comes next|How does it start|Now what|What do I run}?~{From|In|On}"
        " {a shell|my terminal|the command line|the console}, {how do I start tgi|how is the server"
        " started|what starts the server|what launches tgi}?~{Which|What} {word|line|command} do I"
        " {type|enter|run} {to get going|to begin|to have a server|so that it runs}?"
    ),
    (
        "{May|Can|Could} I {ask|know|learn} {who you are|your name|who is speaking|what you are"
        " called|which model this is}?~{And you|You}, who {are you|might you be}?~{With whom|To"
        " whom|With what} {am I|do I have the pleasure of} {speaking|talking|chatting}{|"
        " now}?~{Who|What} {writes|gives|produces|types|sends} {these answers|the replies|these"
        " replies|this text}?~{Please say|Tell us} who you are.~{What do they call you|What are you"
        " called|Do you have a name|How are you called}?"
    ),
    (
        "{Which|What} {jobs|kinds of tasks|kinds of questions|sorts of questions|exercises} {do you"
        " master|can you do|can you solve|are you made for|do you understand}?~{What are you good"
        " for|What may I expect of you|What would you be useful for}?~{I do not know what to"
        " ask|What now}. {What can you do|What do you offer}?~{List|Name} {the things you can"
        " do|your skills|what you can}."
    ),
    (
        "{Are you|Is this} a {big|large|small|huge|tiny} model?~{How many|What number of}"
        " {weights|parameters|numbers} {make you up|are in your network|are inside you|form your"
        " network}?~{How much|How many parameters} {is in you|do you consist of}?~{Is your"
        " network|Is your brain} {big|small|large}?"
    ),
    (
        "{Where did you learn|How did you learn|From what did you learn|Who taught you|What taught"
        " you} {all this|to talk|to write|to answer|what you know|English}?~{Which|What}"
        " {material|books|sources|texts|words|sentences} {did you study|did you read|were used for"
        " you|formed you}?~{Did you read|Were you trained on} {the internet|Wikipedia|books|the"
        " web}?"
    ),
    (
        "{My script|My program|My app|A tool of mine} {has|sends} {a prompt|one prompt|a text} and"
        " {wants|needs|expects} {the text that follows|the complete answer|the whole result|one"
        " JSON answer}. {Which route is that|Where does it go|Which path}?~{Which|What}"
        " {route|path|address} {continues a text|completes plain text|answers a plain prompt|gives"
        " back everything at once|takes inputs and parameters}?~{Without chat|No chat, just text}:"
        " {which route|where do I post}?"
    ),
    (
        "{I do not want to wait|Users hate to wait|Nobody likes to wait} {for the whole text|for"
        " the end|until all is done}. {How do I get tokens earlier|Which route shows them at"
        " once|Is there a stream}?~{Which|What} {route|path|address} {sends events|sends tokens as"
        " events|gives tokens while they are made|shows the text as it grows|streams plain"
        " prompts}?~{The words should|The text should|Tokens should} {appear|arrive|come} {one"
        " after another|at once|live|as they are made}. {How|Which route}?"
    ),
    (
        "{I have|My app has|We have} {messages with roles|a conversation|a system prompt and a user"
        " message|a dialog}. {Which route|Where do I send it|Which path takes it}?~{Which|What}"
        " {route|path|address|URL} {takes messages|is meant for dialogs|is for a chatbot|accepts"
        " roles|would a chatbot use}?~{I build|We build} a {chatbot|chat page|chat"
        " window|assistant}. {Which route do I call|Where do I post}?"
    ),
    (
        "{We have|I have|There is} {code|a program|an app|software} {for OpenAI|that calls"
        " OpenAI|written for the OpenAI API}. {Does it run with tgi|Will it work here|Can I keep"
        " it|Must I rewrite it}?~{Do I have to|Must I|Should I} {change|rewrite|replace} my OpenAI"
        " {code|client|program}?~{Will|Would|Does} {the openai package|an OpenAI client|OpenAI"
        " software} {run|work|function} {here|with this server|against tgi}?"
    ),
    (
        "{I have|We have|My job has} {ten prompts|a hundred prompts|a list of prompts|a few"
        " prompts}. {Can one request carry them|Which route takes them all|Is one call"
        " enough}?~{Which|What} {route|path} {does OpenAI's completions API use|is for completions"
        " without chat|is the older OpenAI route}?"
    ),
    (
        "{A client|My tool|A program|A menu} {wants|needs} {the names of the models|to know the"
        " models|a list of models}. {Which route|Where does it look}?~{Which|What}"
        " {route|path|address} {tells the models|returns model names|has the model names|offers a"
        " list of the models}?"
    ),
    (
        "{Our|The|My} {cluster|orchestrator|proxy|watchdog|container platform} {needs|wants|has to"
        " have} {a probe|a check|a URL to test|a path to poll}. {Which one|Which route|What do I"
        " give it}?~{Which|What} {route|path|URL|address} {can I poll|do probes call|tells if all"
        " is well|says ready or not ready|returns 200 when ready}?~{How do I see|How do I learn|How"
        " can a script tell} {whether the server lives|that the server is ready|if the server is"
        " up}?"
    ),
    (
        "{Where|On which route|At which path} {does tgi|does the server} {tell|publish|show|say}"
        " {its limits|its version|the model id|what it serves|its settings}?~{Which|What}"
        " {route|path} {tells|shows|gives} {the version|the limits|facts about the server|the"
        " model's id}?~{I need to know|How do I learn} {the version of the running server|the"
        " limits of the running server}."
    ),
    (
        "{Which|What} {route|path} {says|tells|shows|reveals} {which backend is active|what backend"
        " is running|the backend at work|what the backend agreed to}?~{Is it the CPU backend that"
        " runs|Which backend is it that runs}, and where can I see {that|this}?~{How do I see|Where"
        " do I see} {the backend at run time|what the backend can do}?"
    ),
    (
        "{We have|I run|Our team uses} {Prometheus|Grafana|a monitoring system|dashboards}. {What"
        " should it read|Which path does it need|Where are the numbers|Which route}?~{Which|What}"
        " {route|path|URL|address} {has numbers on the requests|exports counters|do I scrape|is"
        " scraped|has the queue size|gives latency figures}?~{How many requests were served|How"
        " long do requests take}? Where {can I see that|is that shown|are such numbers}?"
    ),
    (
        "{How long is|How many tokens are in|How many tokens has} {my text|this text|a prompt}?"
        " {Which route tells|Where can I count|Who counts}?~{Which|What} {route|path} {counts"
        " tokens|cuts text into tokens|shows the pieces of a text|gives ids of tokens}?~{I want|I"
        " need} {the ids of the tokens|to count tokens} {of a sentence|of my prompt}."
    ),
    (
        "{How many tokens|How long} {does a conversation have|is a chat after the template}? {Which"
        " route|Where}?~{Which|What} {route|path} {applies the chat template|turns messages into"
        " tokens|shows a chat as the model sees it}?"
    ),
    (
        "{Where can I|Can I} {click through|try out|read about|browse} {the API|the routes|all"
        " routes|the endpoints}{| in a browser}?~{Is there|Do you have} {a page|a site|a place}"
        " {that explains the API|with all routes|to try the routes|with the API}?~{Which|What}"
        " {route|path|page} {documents the API|lists all routes|shows all endpoints}?"
    ),
    (
        "{We|Our company|I} {use|uses|work with|host with} {SageMaker|Amazon SageMaker}. {Which"
        " route|Does it work|Which path is called|What does it call}?~{Which|What} {route|path}"
        " {belongs to SageMaker|does SageMaker call|is there for SageMaker}?"
    ),
    (
        "{We|Our company|I} {use|uses|work with|host with} {Vertex|Vertex AI}. {Which route|Does it"
        " work|Which path is called|What does it call}?~{Which|What} {route|path} {belongs to"
        " Vertex|does Vertex call|is there for Vertex AI}?"
    ),
    (
        "{Is there|Does the server answer} a ping{| route}?~{How do I|Can I} ping {it|the"
        " server|tgi}?~{Which|What} {route|path} is a second name of /health?"
    ),
    (
        "{I have|We have|There is} {a model on my disk|a checkpoint|a fine-tuned model|weights in a"
        " directory|a folder with a model}. {How do I serve it|How does tgi find it|Which"
        " option|What do I pass}?~{How do I|How can I} {tell the server which model to take|make"
        " tgi serve Llama|replace the demo model|point tgi to my weights|get a real model instead"
        " of the demo}?~{The demo is too small|I want a bigger model}. {How do I name another|How"
        " do I switch|Which option}?"
    ),
    (
        "{Something else|Another program|Another server|A web server} {uses port 3000|occupies"
        " 3000|has my port|runs on that port}. {What do I do|How do I move tgi|Which option|How do"
        " I avoid it}?~{Under|On|At} {which|what} port {is the server|can I reach tgi|do I"
        " connect|does it answer}{| by default| normally}?~{I want|I need|Please} {port 8080|port"
        " 80|port 5000|a different port}. {How|Which option}?~{How do I|Can I} {run|move|put}"
        " {it|tgi|the server} {on port 8080|on another port|to port 9000|on a free port}?"
    ),
    (
        "{Only my machine|Only localhost|Only one network} {may|should|can} reach the server. {How"
        " do I bind it|Which option|How}?~{How do I|Which option lets me} {bind|tie|attach} {the"
        " server|tgi} {to an address|to one interface|to 127.0.0.1|to localhost}?~{On which|To"
        " which} {interface|address|IP} {is it bound|does it listen|does the server answer}?"
    ),
    (
        "{I do not want|I dislike} the {automatic choice|automatic backend}. {How do I choose"
        " myself|How do I decide|Which option}?~{How do I|How can I} {make|have|let} {tgi|the"
        " server} {use|take} {the cuda backend|the cpu backend|one backend only|my backend}?~{Two"
        " backends|Several backends} are {usable|installed}. {Which one is taken|How do I choose"
        " one|How does tgi decide}?"
    ),
    (
        "{How do I know|How can I see|How do I check|Where do I see} {what backends I have|which"
        " backends work here|whether a backend is usable|why a backend is not usable}?~{Which|What}"
        " command {tells|prints|explains} {what backends are there|which backends work|why a"
        " backend cannot run}?~{Is the cuda backend|Is my backend} {usable|installed}? {How do I"
        " check|Which command}?"
    ),
    (
        "{I own|We have|I have|My computer has} {an AMD GPU|an NVIDIA GPU|an Intel card|a TPU|Gaudi"
        " cards|a Radeon|a GeForce|Trainium chips}. {Does tgi work|Can I use it|Is it"
        " supported|Will it run}?~{Which|What} {cards|GPUs|processors|vendors|brands} {work|work"
        " with tgi|can be used|are possible}?~{Tell me|List|Name} {every|each|all}"
        " {accelerator|kind of hardware|device|chip|platform}{| that works| that tgi knows| that is"
        " supported| that can be used}{.|s.}"
    ),
    (
        "{In tgi|Here}, {what is called a backend|what does backend mean|what is meant by"
        " backend|what does the word backend stand for}?~{The word backend|The term backend}: {what"
        " does it mean|what is it|please define it}?~{What kind of thing is|What sort of thing"
        " is|How would you define} a backend{| in tgi| of tgi| for tgi}?"
    ),
    (
        "{My|This|Our} {computer|laptop|machine|server} {has no GPU|has no accelerator|has just a"
        " CPU|has no special hardware|is old}. {Can I use tgi|Does tgi run|Is that enough|Will it"
        " work}?~{I do not have|We lack|I have not got} {a GPU|any GPU|an accelerator|graphics"
        " hardware}. {Is tgi still possible|Does it work nevertheless|Can tgi run|Can I still run"
        " it}?~{Is|Would} a {processor|CPU} {enough|be enough|sufficient}?"
    ),
    (
        "{Why is there|What is the use of|Who needs} {a backend called null|a null backend|the"
        " backend null}?~{I saw|I read about} {a backend called null|the null backend}. {What is"
        " it|What is it for|What does it do}?"
    ),
    (
        "{We make|We build|Our lab has|Our startup makes} {accelerators|a new accelerator|chips|our"
        " own device|a processor}. {How can tgi use it|How do we connect it to tgi|How do we"
        " support it|What must we write}?~{tgi does not know|There is no backend for} {my chip|our"
        " device|my hardware}. {What can I do|How do I add it|How do I write one}?~{Where do I|How"
        " do I} {begin with|register|publish} {a backend|my backend|a new backend}?"
    ),
    (
        "{The model|My model} {does not fit|is too large} {on one GPU|for one card|for a single"
        " device}. {What can I do|Which option|How do I split it}?~{I have|We have|There are} {two"
        " GPUs|eight cards|several devices|many accelerators}. {How do I use them all|Which"
        " option|How does tgi use them}?~{How do I|Can I} {spread|distribute|divide} {a model|the"
        " model|the weights} {over|across|among} {several cards|many GPUs|two devices|devices}?"
    ),
    (
        "{I want|We want|I need} {no more than|at most|up to} {10|20|64|100|200}"
        " {requests|clients|users} {at a time|at once|in parallel|together}. {How|Which option|What"
        " do I set}?~{How do I|Which option do I use to} {restrict|allow|set} {parallel"
        " requests|how many requests run|the number of clients|more requests at once}?~{How"
        " many|What number of} requests {run|are taken|may run} {together|at one time|in parallel}?"
    ),
    (
        "{My|Our|A} {program|client|script|user} {sees|receives|gets|got|received} {429|a 429|the"
        " status 429|error 429}. {Why|What does it mean|What can be done|What is wrong}?~{The"
        " server|tgi} {says it is overloaded|refuses with 429|answers 429}. {Why|What do I do}?"
    ),
    (
        "{My|Our|A} {program|client|script|user} {sees|receives|gets|got|received} {422|a 422|the"
        " status 422|error 422|a validation error}. {Why|What does it mean|What can be done|What is"
        " wrong}?~{The server|tgi} {refuses with 422|answers 422|rejects my request}. {Why|What do"
        " I do}?"
    ),
    (
        "{Someone sends|A user sends|People send} {whole books|huge prompts|very long texts|endless"
        " prompts}. {How do I forbid that|Which option|How do I stop this|What limits it}?~{How do"
        " I|Which option do I use to} {forbid|refuse|reject} {long prompts|prompts above a"
        " length|too much input}?"
    ),
    (
        "{How do I|Which option do I use to} {bound|restrict} {everything together|input plus"
        " output|the sum of prompt and answer|a whole conversation's length}?~{Prompt plus"
        " answer|Input plus output|Prompt and output together} {should be|may be|must be}"
        " {limited|at most 2000 tokens|under 4096}. {How|Which option}?"
    ),
    (
        "{The KV cache|The cache} {is too large|needs too much memory|should be smaller|should hold"
        " more}. {Which option|How do I set it|What do I change}?~{How do I|Which option do I use"
        " to} {size|shrink|grow} the {cache|KV cache}?"
    ),
    (
        "{Long prefills|Big prefills|Prefills} {block the others|take too long|are too big}. {Which"
        " option|How do I limit them|What do I change}?~{How many|What number of} prompt tokens"
        " {fit in a step|run in one step|are taken per step}?"
    ),
    (
        "{Not everybody|Nobody else|Only my team|Only some people} {should|may|shall} {use the"
        " server|call it|have access|send requests}. {How|How do I do that|Which option}?~{How do"
        " I|Which option do I use to} {lock the server|demand a key|ask for a password|restrict"
        " access|shut out others}?~{Clients need|Everybody should need|Users must have} {a key|a"
        " password|a secret}. {How do I set it|Which option|How}?"
    ),
    (
        "{The weights|The model} {need less memory|should be smaller|must shrink|are in AWQ|are in"
        " GPTQ|are quantized}. {Which option|How do I serve it|How|Can tgi do that}?~{Can I|Is it"
        " possible to|May I} {use|load|run} {4-bit weights|8-bit weights|fp8|a quantized"
        " model|AWQ|GPTQ|bitsandbytes}?"
    ),
    (
        "{The weights|The model|It} {should|must|shall} {be|run|stay} in"
        " {float16|bfloat16|float32|half precision}. {Which option|How}?~{How do I|Which option do"
        " I use to} {load|hold|run|keep} {the weights|the model} in {float16|float32|bfloat16|16"
        " bits|half precision}?"
    ),
    (
        "{We collect logs|Our logs go to a database|A program reads our logs}. {How do they become"
        " JSON|Which option|How do I format them}?~{How do I|Which option do I use to}"
        " {change|turn|convert} {the logs|the log output} {to JSON|into JSON|to JSON lines}?"
    ),
    (
        "{We have|I trained|I have} {a LoRA|a LoRA adapter|several adapters|an adapter}. {How do I"
        " serve it|Which option|How do I use it}?~{One base model|The same model}, {many"
        " adapters|several fine-tunings}: {how|is that possible|which option}?"
    ),
    (
        "{My web page|JavaScript in a browser|A web app} {calls|wants to call|cannot call} {the"
        " server|tgi}. {Which option|What do I set|How do I allow it}?~{The browser|My browser}"
        " {blocks the request|complains about CORS|refuses}. {What do I set|Which option}?"
    ),
    (
        "{The text|The output|My answer|The reply} {stops too soon|is too short|breaks off|ends in"
        " the middle|is too long}. {Which parameter|What do I change|How do I change that|What sets"
        " this}?~{I want|I need|Give me} {more text|longer output|100 tokens|500 tokens|shorter"
        " output}. {Which parameter|How}?~{How do I|Which parameter do I use to} {get more"
        " words|limit the output|ask for 200 tokens|make it write more}?"
    ),
    (
        "{The answers|The texts|Outputs} are {too random|too boring|too wild|always the same|not"
        " creative}. {Which parameter|What do I change|How do I change that}?~{How do I|Which"
        " parameter do I use to} {make sampling wilder|make it less random|get creative text|set"
        " randomness|always get the likeliest token}?"
    ),
    (
        "{How does|What does|In which way does} top_p {change sampling|work|do to"
        " sampling|influence the choice of tokens|restrict tokens}?~{What happens|What changes}"
        " {if|when} I {set|lower|raise} top_p?"
    ),
    (
        "{How does|What does|In which way does} top_k {change sampling|work|do to"
        " sampling|influence the choice of tokens|restrict tokens}?~{What happens|What changes}"
        " {if|when} I {set|lower|raise} top_k?"
    ),
    (
        "{The model|It|My model} {says everything twice|loops|repeats one sentence|is stuck in a"
        " loop|repeats itself}. {Which parameter|What helps|How do I stop that}?~{How do I|Which"
        " parameter do I use to} {avoid loops|keep it from repeating|stop the same sentence|get"
        " less repetition}?"
    ),
    (
        "{Each time|Every time} I {sample|ask} the {text|answer} {differs|is different|changes}."
        " {How do I fix it|Which parameter|How do I get the same one}?~{How do I|Which parameter do"
        " I use to} {repeat a result|get identical text|make sampling predictable|have the same"
        " output every time}?~{My tests need|I need} {the same output each run|repeatable"
        " answers|identical samples}. {What do I set|Which parameter}?"
    ),
    (
        "{Generation|The text|The model} should {end|stop|halt} {at a newline|at END|when a word"
        " comes|at a marker|at a given string}. {How|Which parameter}?~{How do I|Which parameter do"
        " I use to} {end at a phrase|halt at a string|stop when it writes END|cut at a marker}?"
    ),
    (
        "{I want|I need|Show me} {the probability of each token|every token with its"
        " probability|how sure the model is|the tokens one by one in the answer}. {Which"
        " parameter|How}?~{How do I|Which parameter do I use to} {see token probabilities|learn how"
        " likely each token was|get the finish reason}?"
    ),
    (
        "{Why|For what reason} {did it stop|does generation end|can a text end|did the answer"
        " end}{| and which reasons exist}?~{Which|What} {values|reasons|strings} {may finish_reason"
        " have|does finish_reason take|can end a generation|are there for the end}?"
    ),
    (
        "{The answer|Output|The reply} {must|has to|should} {be valid JSON|follow a schema|match a"
        " pattern|match a regular expression|have a fixed form}. {How|What do I use|Is that"
        " possible}?~{How do I|What do I use to} {guarantee JSON|enforce a schema|make it follow a"
        " pattern|restrict the form of the answer}?"
    ),
    (
        "{The model|It} should {call a function|use a calculator|look up the weather|call my code}."
        " {How|Is that possible|What do I send}?~{How do I|Can I} {offer functions to the model|let"
        " it call code|describe my functions|pass functions}?"
    ),
    (
        "{New requests|A request} {arrive|arrives} {while others run|during generation|in between}."
        " {Must they wait|What happens|Can they join}?~{How can|How does} {one server|tgi} {serve"
        " many people|run many requests together|keep a batch full}?~{What does|Explain}"
        " {continuous|continuous batching} {mean|in batching mean}?"
    ),
    (
        "{Why|What for|For what reason} {is there a KV cache|does the server cache keys|are keys"
        " and values kept|do we need a KV cache}?~{What|Which data} {is inside|lies in|sits in}"
        " {the KV cache|a KV cache}?~{Keys and values|Old tokens} {are computed again|are kept}?"
        " {Where|Why}?"
    ),
    (
        "{How are|In what respect are} {prefill and decode|decode and prefill} different?~{What"
        " comes first|Which comes first}, {prefill or decode|decode or prefill}?~{Why|How} {is the"
        " first token slower|does generation begin|is a prompt processed}?"
    ),
    (
        "{Many requests|All my requests|Several chats} {share|have|start with} the same"
        " {beginning|system prompt|first part|introduction}. {Is it computed each time|Is work"
        " saved|Is that reused|Does tgi reuse it}?~{Is|Will} {the same beginning|a common prefix|a"
        " repeated system prompt} {computed once|computed again|reused}?"
    ),
    (
        "{Why|What for|How} {does one use|would I use|does tgi use} {a small second model|a draft|a"
        " draft model}?~{A small model|A draft} {guesses|helps} a {large|big} one: {what is that"
        " called|how does it work}?~{How can|Can} {decoding be sped up with|generation gain from} a"
        " {small model|draft model}?"
    ),
    (
        "{Which|What} process {answers HTTP|runs the scheduler|runs the model|talks to"
        " clients}?~{Is tgi|Is the server} one process{| or two| or several}?~{What is|Explain} the"
        " {division of work|split} {between the processes|of front and engine}?"
    ),
    (
        "{The engine|The backend|The model process} {was killed|crashed|died|ran out of memory|is"
        " gone}. {What now|What happens to my requests|Are my requests lost|Is everything lost|What"
        " does tgi do}?~{Do I lose|Are} {running requests|my requests|open streams} {lost"
        " |}{when|if|after} {the engine crashes|a crash|the engine dies}?"
    ),
    (
        "{Is it|Is this|Is the server} {made in|programmed in|coded in|based on}"
        " {Python|Rust|C++|Java|Go}{| or something else| or not}?~{Which|What} language {did they"
        " use|do I need to read the code|is behind tgi|do the authors use}?~{Can I|How can I} read"
        " the {source|code}? {Which language is it|In what language}?"
    ),
    (
        "{Am I|Are we} allowed to {sell|use|change|copy|modify|ship} {tgi|it|the software}?~{What"
        " does|How much does} {tgi|it} cost?~{Which|What} {terms|conditions|rules} {apply|hold|does"
        " it come with|cover it}?~{Is there|Does it have} {a licence|a license|a fee}?"
    ),
    (
        "{I used|We used|We still use} {TGI 3|version 3|the old version}. {Do my programs still"
        " work|Must I change anything|Is this one compatible}?~{Our|My} {clients|programs|scripts}"
        " {were written for|speak to|expect} TGI 3. {Do they still work|Is that fine}?~{Does|Will}"
        " {it|tgi 4|this version} {accept|understand|serve} {TGI 3 requests|old requests|old"
        " clients}?"
    ),
    (
        "{Does|Will|Can} {a Llama|a Mistral|a Qwen|a GPT-2} {model |checkpoint |}{work|run|load|be"
        " served}{| here| with tgi}?~{I have|We have} {a Llama model|a Mistral checkpoint|a Qwen"
        " model|GPT-2 weights}. {Does tgi know it|Is it supported|Can tgi run it}?~{Which|What}"
        " {families|kinds of checkpoints|networks} {run|are known|work}?"
    ),
    (
        "{I am done|We are finished|The work is over}. {How do I end the server|How do I stop"
        " it|How is it shut down}?~{How do I|How can I} {kill|halt|finish|end|exit} {the"
        " server|tgi|it} {cleanly|safely|without losing requests|properly}?~{What|Which signal}"
        " {ends|stops|terminates} {the server|tgi}?"
    ),
    (
        "{I would like|I want|Let me} {to try|try|test} {the server|a request|it} {in a shell|with"
        " curl|by hand}. {What do I type|Give me a line|Show me how}?~{Which|What} {line|curl"
        " line|request} {can I copy|works|should I try}?~{Give|Show|Send} me {a line|something} I"
        " can {paste|copy} {into a shell|into my terminal}."
    ),
    (
        "{Where|How} {are settings changed|do I change settings|do I set options|can I learn about"
        " options|are the options explained}?~{I prefer|We use} {environment variables|variables}"
        " {to flags|in containers}. {Is that possible|Does tgi read them}?~{Does tgi|Can tgi}"
        " {read|take|use} {environment variables|settings from the environment}?"
    ),
)
