// Validates asyncapi.yaml and openapi.yaml, and the JSON Schemas that they refer to, with the parsers
// that integrators' tools are built on. Exit status 1, and every fault, if one is not valid.
//
// usage: npm ci && node validate.js

import { Parser, fromFile } from '@asyncapi/parser';
import { createConfig, lint } from '@redocly/openapi-core';
import { fileURLToPath } from 'node:url';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

async function asyncapi(file) {
  const { diagnostics } = await fromFile(new Parser(), path(file)).parse();
  return diagnostics
    .filter(({ code }) => code !== 'asyncapi-latest-version') // 3.0 is what tools read
    .map(({ path, message, range }) => `${range.start.line + 1}: ${path.join('.')}: ${message}`);
}

async function openapi(file) {
  const config = await createConfig({
    extends: ['recommended'],
    rules: {
      'no-server-example.com': 'off', // `sumu dev` is on localhost
      'operation-2xx-response': 'off', // /push answers 101
      'operation-4xx-response': 'off', // health and metrics refuse nothing
      'no-unused-components': 'off', // PresenceFrame is inside an event stream, which OpenAPI 3.1 cannot describe
      'no-illogical-composition-keywords': 'off', // an enum of the types with one value, so far
    },
  });
  const problems = await lint({ ref: path(file), config });
  return problems.map(({ location, message }) => `${location[0]?.pointer}: ${message}`);
}

for (const [validate, file] of [[asyncapi, 'asyncapi.yaml'], [openapi, 'openapi.yaml']]) {
  const faults = await validate(file);
  console.log(`${file}: ${faults.length === 0 ? 'valid' : `${faults.length} faults`}`);
  for (const fault of faults) console.log(`  ${fault}`);
  if (faults.length > 0) process.exitCode = 1;
}
