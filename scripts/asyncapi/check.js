// Checks docs/asyncapi.yaml: it is valid, so are the schemas it refers to, and its examples are valid by them.
// node check.js FILE; scripts/get-clients asyncapi gets the parser.
import { fromFile, Parser } from '@asyncapi/parser';
import Ajv from 'ajv';
import process from 'node:process';

const file = process.argv[2];
const { document, diagnostics } = await fromFile(new Parser(), file).parse();
const faults = diagnostics
  // A newer version of AsyncAPI is no fault of the document.
  .filter(({ code }) => code !== 'asyncapi-latest-version')
  .map(({ code, message, path }) => `${code} at ${path.join('.')}: ${message}`);

// The parser does not hold the examples against the schemas.
const messages = document?.components().messages().all() ?? [];
const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
let examples = 0;
for (const message of messages) {
  for (const example of message.examples().all()) {
    examples += 1;
    for (const part of ['payload', 'headers']) {
      if (!example[part]()) continue;
      const valid = ajv.compile(message[part]().json());
      if (valid(example[part]())) continue;
      faults.push(`example ${example.name()} of ${message.id()}: ${ajv.errorsText(valid.errors, { dataVar: part })}`);
    }
  }
}
if (faults.length > 0 || examples === 0) {
  console.error(faults.map((fault) => `${file}: ${fault}`).join('\n') || `${file}: no examples`);
  process.exit(1);
}
console.log(`${file}: AsyncAPI ${document.version()}, ${messages.length} messages, ${examples} examples: valid`);
