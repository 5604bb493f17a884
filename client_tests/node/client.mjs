// What the OpenAI SDK for Node makes of the service: `client.mjs <base URL> <case>`; prints JSON.
import OpenAI, { APIError } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, wanted] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0, timeout: 20_000 });
const model = "scripted";
const messages = [{ role: "user", content: "Hello!" }];
const Recipe = z.object({ title: z.string(), minutes: z.number() });
const parameters = {
  type: "object",
  properties: { order: { type: "integer" } },
  required: ["order"],
};
const lookUp = { name: "look_up", description: "Find an order.", parameters };
const ran = [];
const tool = {
  type: "function",
  function: {
    ...lookUp,
    parse: JSON.parse,
    function: ({ order }) => {
      ran.push(order);
      return `order ${order} was sent`;
    },
  },
};

const failure = (error) => {
  if (!(error instanceof APIError)) throw error;
  return { name: error.constructor.name, status: error.status ?? null, code: error.code };
};

const all = async (iterable) => {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
};

const cases = {
  create: () => client.chat.completions.create({ model, messages }),
  stream: async () => {
    const stream_options = { include_usage: true };
    return all(await client.chat.completions.create({ model, messages, stream: true, stream_options }));
  },
  helper: async () => {
    const stream = client.chat.completions.stream({ model, messages });
    const deltas = [];
    stream.on("content", (delta) => deltas.push(delta));
    return { whole: await stream.finalContent(), deltas };
  },
  parse: async () => {
    const response_format = zodResponseFormat(Recipe, "recipe");
    const done = await client.chat.completions.parse({ model, messages, response_format });
    return done.choices[0].message.parsed;
  },
  tools: async () => {
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool] });
    return { answer: await runner.finalContent(), ran };
  },
  streamedTools: async () => {
    const options = { model, messages, tools: [tool], stream: true };
    return { answer: await client.chat.completions.runTools(options).finalContent(), ran };
  },
  headers: async () => {
    const { data, response, request_id } = await client.chat.completions
      .create({ model, messages })
      .withResponse();
    return { id: data.id, run: response.headers.get("x-run-id"), request_id };
  },
  unknown: () => client.chat.completions.create({ model: "nobody", messages }).catch(failure),
  bad: () => client.chat.completions.create({ model, messages: [] }).catch(failure),
  broken: async () => {
    const said = [];
    try {
      const stream = await client.chat.completions.create({ model, messages, stream: true });
      for await (const chunk of stream) said.push(chunk.choices[0].delta.content ?? "");
    } catch (error) {
      return { said: said.join(""), error: failure(error) };
    }
    return { said: said.join(""), error: null };
  },
  models: async () => ({
    listed: (await all(client.models.list())).map((each) => each.id),
    shown: (await client.models.retrieve(model)).id,
  }),
  embeddings: async () => {
    const made = await client.embeddings.create({ model: "text-embedding-3-small", input: "Hello!" });
    return made.data[0].embedding;
  },
  respond: async () => {
    const first = await client.responses.create({ model, input: "Hello!" });
    const second = await client.responses.create({
      model,
      input: "And now?",
      previous_response_id: first.id,
    });
    const found = await client.responses.retrieve(first.id);
    return [first.output_text, second.output_text, found.output_text];
  },
  respondStream: async () => {
    const stream = client.responses.stream({ model, input: "Hello!" });
    const events = await all(stream);
    return { events, whole: (await stream.finalResponse()).output_text };
  },
  respondParse: async () => {
    const text = { format: zodTextFormat(Recipe, "recipe") };
    return (await client.responses.parse({ model, input: "A recipe!", text })).output_parsed;
  },
  respondTools: async () => {
    const tools = [{ type: "function", ...lookUp, strict: false }];
    const first = await client.responses.create({ model, input: "Where?", tools });
    const outputs = first.output.map((call) => ({
      type: "function_call_output",
      call_id: call.call_id,
      output: `order ${JSON.parse(call.arguments).order} was sent`,
    }));
    const done = await client.responses.create({
      model,
      tools,
      input: outputs,
      previous_response_id: first.id,
    });
    return done.output_text;
  },
};

console.log(JSON.stringify(await cases[wanted]()));
