// Makes one streamed model call knowing only the published schemas (proto/schemas) and AIOS_URL, AIOS_TOKEN.
// Every header, body and frame is checked against them. Prints one JSON line; exits 1 on any deviation.
//
//   node chat.mjs [prompt] [max_tokens]
//
// On a bus that speaks TLS: AIOS_TLS_CA, AIOS_TLS_CERT and AIOS_TLS_KEY name its files.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { connect, headers, nuid } from "@nats-io/transport-node";
import Ajv from "ajv/dist/2020.js";

const TIMEOUT_MS = 60_000;
const SCHEMAS = new URL("../../../proto/schemas/", import.meta.url);
const OPERATION = "llm.chat";

class Deviation extends Error {}

function schema(name) {
  return JSON.parse(readFileSync(fileURLToPath(new URL(name, SCHEMAS)), "utf8"));
}

function required(name) {
  const value = process.env[name];
  if (!value) throw new Deviation(`${name} is not set`);
  return value;
}

// `x-...` are this contract's annotations; everything else must be JSON Schema.
const ajv = new Ajv({ strict: true, allErrors: true, strictTypes: false, strictRequired: false });
for (const keyword of ["x-streams", "x-durability", "x-codes", "x-stamped-by"]) ajv.addKeyword(keyword);

function checker(name) {
  const validate = ajv.compile(schema(name));
  return (value) => {
    if (!validate(value)) {
      throw new Deviation(`${name}: ${ajv.errorsText(validate.errors)} in ${JSON.stringify(value)}`);
    }
    return value;
  };
}

const check = {
  headers: checker("headers.json"),
  request: checker(`${OPERATION}.request.json`),
  frame: checker("frames.json"),
  result: checker(`${OPERATION}.result.json`),
  error: checker("error.json"),
};

// Subjects come from the AsyncAPI document, so that nothing of the contract is repeated here.
const asyncapi = schema("asyncapi.json");

function resolve(reference) {
  return reference.slice(2).split("/").reduce((value, key) => value[key], asyncapi);
}

function address(channel, parameters) {
  return channel.address.replace(/\{(\w+)\}/g, (_, name) => parameters[name]);
}

async function chat(prompt, maxTokens) {
  const token = required("AIOS_TOKEN");
  const [tenant, agent] = token.split(".");
  const operation = asyncapi.operations[OPERATION];
  const subject = address(resolve(operation.channel.$ref), { tenant, agent });
  const inbox = address(resolve(operation.reply.channel.$ref), { tenant, agent, token: nuid.next() });

  const id = nuid.next();
  const fields = check.headers({
    "Aios-Id": id,
    "Aios-Proto": String(asyncapi.info.version.split(".")[0]),
    "Aios-Deadline": String(Date.now() + TIMEOUT_MS),
  });
  const body = check.request({ messages: [{ role: "user", content: prompt }], max_tokens: maxTokens });

  const { AIOS_TLS_CA: caFile, AIOS_TLS_CERT: certFile, AIOS_TLS_KEY: keyFile } = process.env;
  const tls = caFile ? { caFile, certFile, keyFile } : undefined;
  const bus = await connect({ servers: required("AIOS_URL"), token, tls, timeout: 10_000 });
  try {
    const replies = bus.subscribe(inbox);
    const timer = setTimeout(() => replies.unsubscribe(), TIMEOUT_MS);
    const wire = headers();
    for (const [name, value] of Object.entries(fields)) wire.set(name, value);
    bus.publish(subject, JSON.stringify(body), { headers: wire, reply: inbox });
    try {
      return await read(replies, id);
    } finally {
      clearTimeout(timer);
    }
  } finally {
    await bus.close();
  }
}

async function read(replies, id) {
  const kinds = [];
  let characters = []; // code points, which is what text_offset counts
  for await (const message of replies) {
    if (message.headers?.code === 503) throw new Deviation("nobody answers system calls");
    const frame = check.frame(message.json());
    if (frame.id !== id) throw new Deviation(`a frame of another call: ${frame.id}`);
    kinds.push(frame.type);
    checkOrder(kinds);
    if (frame.type === "delta") {
      if (frame.text_offset > characters.length) throw new Deviation("text is missing between two deltas");
      characters = characters.concat([...frame.text].slice(characters.length - frame.text_offset));
    } else if (frame.type === "error") {
      check.error(frame.error);
      throw new Deviation(`the call failed: ${frame.error.code}: ${frame.error.message}`);
    } else if (frame.type === "done") {
      const result = check.result(frame.result);
      const text = characters.join("");
      if (text !== result.message.content) throw new Deviation("the deltas do not make the answer");
      return {
        ok: true,
        id,
        text,
        frames: kinds.length,
        deltas: kinds.filter((kind) => kind === "delta").length,
        finish_reason: result.finish_reason,
        model: result.model,
        usage: frame.usage ?? null,
        timings: frame.timings ?? null,
        trace_id: frame.trace_id ?? null,
      };
    }
  }
  throw new Deviation(`no end within ${TIMEOUT_MS} ms; frames so far: ${kinds.join(" ") || "none"}`);
}

// pending_approval? delta* (done | error), and at most one accepted anywhere before the end
function checkOrder(kinds) {
  const accepted = kinds.filter((kind) => kind === "accepted").length;
  if (accepted > 1) throw new Deviation(`accepted ${accepted} times`);
  const order = kinds
    .filter((kind) => kind !== "accepted")
    .map((kind) => ({ pending_approval: "p", delta: "d", done: "e", error: "e" })[kind]);
  if (!/^p?d*e?$/.test(order.join(""))) throw new Deviation(`frames out of order: ${kinds.join(" ")}`);
}

try {
  const result = await chat(process.argv[2] ?? "Say hello.", Number(process.argv[3] ?? 16));
  console.log(JSON.stringify(result));
} catch (error) {
  const expected = error instanceof Deviation;
  console.log(JSON.stringify({ ok: false, error: expected ? error.message : `${error.name}: ${error.message}` }));
  process.exitCode = 1;
}
