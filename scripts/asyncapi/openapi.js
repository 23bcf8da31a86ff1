// Checks OpenAPI documents by redocly's rules for their structure. node openapi.js FILE…
import process from 'node:process';
import { createConfig, lint } from '@redocly/openapi-core';

const config = await createConfig({ extends: ['minimal'] });
for (const file of process.argv.slice(2)) {
  const problems = await lint({ ref: file, config });
  const errors = problems.filter(({ severity, ignored }) => severity === 'error' && !ignored);
  for (const { ruleId, message, location } of errors) console.error(`${file}: ${ruleId} at ${location[0]?.pointer}: ${message}`);
  if (errors.length > 0) process.exitCode = 1;
  else console.log(`${file}: OpenAPI: valid`);
}
