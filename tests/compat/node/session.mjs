// A session with the clients for Node. Run it in a folder with the packages of package.json:
// `node session.mjs URL`.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { InferenceClient } from "@huggingface/inference";
import { APICallError, generateText, streamText } from "ai";
import OpenAI from "openai";

const url = process.argv[2];
const prompt = "The quick brown fox";
const messages = [{ role: "user", content: prompt }];
const greedy = { model: "tgi", messages, temperature: 0, max_tokens: 4 };
const long = [{ role: "user", content: "fox ".repeat(20_000) }];

async function checkOpenAI() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "-", maxRetries: 0 });
  const whole = await client.chat.completions.create(greedy);
  const joined = await client.chat.completions.stream(greedy).finalChatCompletion();
  assert.equal(joined.choices[0].message.role, "assistant");
  assert.equal(joined.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(joined.choices[0].finish_reason, whole.choices[0].finish_reason);
  const options = { model: "tgi", input: prompt, temperature: 0, max_output_tokens: 4 };
  const response = await client.responses.create(options);
  const streamed = await client.responses.stream(options).finalResponse();
  assert.equal(streamed.output_text, response.output_text);
  for (const stream of [true, false]) {
    await assert.rejects(
      client.chat.completions.create({ ...greedy, messages: long, stream }),
      (error) => error.status === 400 && error.code === "context_length_exceeded",
    );
  }
}

async function checkAnthropic() {
  const client = new Anthropic({ baseURL: url, apiKey: "-", maxRetries: 0 });
  const whole = await client.messages.create(greedy);
  const joined = await client.messages.stream(greedy).finalMessage();
  assert.deepEqual(joined.content, whole.content);
  assert.equal(joined.stop_reason, whole.stop_reason);
  assert.equal(joined.usage.output_tokens, 4);
  await assert.rejects(
    client.messages.create({ ...greedy, messages: long }),
    (error) => error.status === 400 && error.message.includes("prompt is too long"),
  );
}

async function checkVercel(model) {
  const options = { model, prompt, temperature: 0, maxOutputTokens: 4, maxRetries: 0 };
  const whole = await generateText(options);
  const streamed = streamText(options);
  assert.equal(await streamed.text, whole.text);
  assert.equal(await streamed.finishReason, whole.finishReason);
  assert.equal((await streamed.usage).outputTokens, 4);
  const errors = [];
  const rejected = streamText({ ...options, topP: 1.5, onError: ({ error }) => errors.push(error) });
  await rejected.consumeStream();
  assert.ok(errors[0] instanceof APICallError, `${errors[0]}`);
  assert.equal(errors[0].statusCode, 422);
  assert.equal(errors[0].isRetryable, false);
  assert.match(errors[0].message, /`top_p` must be >= 0 and <= 1/);
}

async function checkHuggingFace() {
  const client = new InferenceClient(undefined, { endpointUrl: url });
  const whole = await client.chatCompletion(greedy);
  let text = "";
  for await (const chunk of client.chatCompletionStream(greedy)) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
  const rejected = client.chatCompletionStream({ ...greedy, top_p: 1.5 });
  await assert.rejects(
    rejected.next(),
    (error) => JSON.stringify([error.message, error.httpResponse?.body]).includes("top_p"),
  );
}

const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "-" });
const compatible = createOpenAICompatible({ name: "tgi", baseURL: `${url}/v1`, includeUsage: true });
await checkOpenAI();
await checkAnthropic();
await checkVercel(openai.chat("tgi"));
await checkVercel(openai.responses("tgi"));
await checkVercel(compatible("tgi"));
await checkHuggingFace();
console.log("all checks passed");
