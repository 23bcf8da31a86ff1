// Checks an OpenAPI document by redocly's rules for its structure. node openapi.js FILE
import process from 'node:process';
import { createConfig, lint } from '@redocly/openapi-core';

const file = process.argv[2];
const config = await createConfig({ extends: ['minimal'] });
const problems = await lint({ ref: file, config });
const errors = problems.filter(({ severity, ignored }) => severity === 'error' && !ignored);
for (const { ruleId, message, location } of errors) console.error(`${file}: ${ruleId} at ${location[0]?.pointer}: ${message}`);
if (errors.length > 0) process.exit(1);
console.log(`${file}: OpenAPI: valid`);
