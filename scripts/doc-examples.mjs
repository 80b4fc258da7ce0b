// The TypeScript examples of the documents that users read. They are run by test/doc-examples.test.ts and type-checked against the packed packages
// by scripts/check-packages.mjs.
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';

const DOCUMENTS = ['docs/library.md', 'packages/torch/README.md', 'packages/ivtlr/README.md', 'README.md'];

const root = new URL('../', import.meta.url);

/** @returns every ```ts block: document, number within it from 1, code */
export function docExamples() {
  return DOCUMENTS.filter((document) => fs.existsSync(new URL(document, root))).flatMap((document) => {
    const text = fs.readFileSync(fileURLToPath(new URL(document, root)), 'utf8');
    return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code], index) => ({
      document,
      number: index + 1,
      code,
    }));
  });
}
