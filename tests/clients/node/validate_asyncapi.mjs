// Checks proto/schemas/asyncapi.json against AsyncAPI's own JSON Schema. Exits 1 and says why where it does not fit.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Ajv from "ajv";

const require = createRequire(import.meta.url);
const document = JSON.parse(readFileSync(new URL("../../../proto/schemas/asyncapi.json", import.meta.url), "utf8"));
const schema = require("@asyncapi/specs").schemasWithoutId[document.asyncapi];
const ajv = new Ajv({ strict: false, validateFormats: false });
const validate = ajv.compile(schema);
if (!validate(document)) {
  console.log(JSON.stringify(validate.errors.slice(0, 5), null, 1));
  process.exitCode = 1;
} else {
  const { channels, operations } = document;
  console.log(JSON.stringify({ channels: Object.keys(channels).length, operations: Object.keys(operations).length }));
}
