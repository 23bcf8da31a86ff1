// Makes TypeScript types of the schemas by quicktype and by Modelina, compiles them strictly, and reads examples with them.
// node generate.js OUT SCHEMAS EXAMPLE…: an example is read as the schema that its name begins with.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { createRequire } from 'node:module';
import process from 'node:process';
import { TypeScriptGenerator } from '@asyncapi/modelina';
import { FetchingJSONSchemaStore, InputData, JSONSchemaInput, quicktype } from 'quicktype-core';

const [out, schemas, ...examples] = process.argv.slice(2);
const read = (name) => readFileSync(join(schemas, `${name}.json`), 'utf8');
const roots = { request: 'UnlockRequest', 'request-strict': 'StrictUnlockRequest', outcome: 'UnlockOutcome' };
const literal = (file) => readFileSync(file, 'utf8');
const fail = (text) => { console.error(text); process.exit(1); };
mkdirSync(out, { recursive: true });

// quicktype: a type and a reader for each.
const input = new JSONSchemaInput(new FetchingJSONSchemaStore());
for (const [name, root] of Object.entries(roots)) await input.addSource({ name: root, schema: read(name) });
const data = new InputData();
data.addInput(input);
const { lines } = await quicktype({ inputData: data, lang: 'typescript' });
writeFileSync(join(out, 'quicktype.ts'), lines.join('\n'));

// Modelina: types alone.
const generator = new TypeScriptGenerator({ modelType: 'interface', rawPropertyNames: true });
let models = '';
for (const name of Object.keys(roots)) {
  for (const model of await generator.generate(JSON.parse(read(name)))) models += `export ${model.result}\n`;
}
writeFileSync(join(out, 'modelina.ts'), models);

for (const file of ['quicktype.ts', 'modelina.ts']) {
  const text = readFileSync(join(out, file), 'utf8');
  const named = [...text.matchAll(/^export (?:default )?(?:interface|class|type|enum) (\w+)/gm)].map(([, name]) => name);
  for (const root of Object.values(roots)) if (!named.includes(root)) fail(`${file}: no type ${root} among ${named}`);
  const odd = named.filter((name) => /Anonymous|\d$/.test(name));
  if (odd.length > 0) fail(`${file}: types without a name of their own: ${odd}`);
  if (/^export type \w+ = any;/m.test(text)) fail(`${file}: a type without fields`);
  console.log(`${file}: ${named.join(', ')}`);
}

// Each example is a value of its type, as the compiler sees it, and quicktype's reader takes it.
const typed = examples.map((file, n) => {
  const name = basename(file);
  const root = name.startsWith('outcome') ? 'UnlockOutcome' : 'UnlockRequest';
  return `export const a${n}: Q.${root} = Q.Convert.to${root}(${JSON.stringify(literal(file))});\n`
    + (root === 'UnlockOutcome' ? `export const b${n}: M.${root} = ${literal(file)};\n` : '');
});
const main = `import * as Q from './quicktype';\nimport * as M from './modelina';\n${typed.join('')}`
  + `console.log(${JSON.stringify(`${examples.length} examples read`)});\n`;
writeFileSync(join(out, 'main.ts'), main);
const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc');
try {
  execFileSync(process.execPath, [tsc, '--strict', '--module', 'commonjs', '--target', 'es2022', '--skipLibCheck',
    '--lib', 'es2022,dom', join(out, 'main.ts')], { stdio: ['ignore', 'pipe', 'inherit'] });
} catch (error) {
  fail(String(error.stdout));
}
writeFileSync(join(out, 'package.json'), '{"type":"commonjs"}');
execFileSync(process.execPath, [join(out, 'main.js')], { stdio: 'inherit' });
