/** The real Qwen2-VL vocabulary from a package, as a folder that Tokenizer can read. */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { readGolden } from './model.ts';

interface TokenGoldens {
  package: { name: string; file: string };
  drop_added_from: number;
  chat_template: string;
}

/** Writes tokenizer.json, tokenizer_config.json and chat_template.jinja. @param template default: Qwen2-VL's */
export function writeQwenTokenizer(folder: string, template?: string): void {
  const goldens = readGolden<TokenGoldens>('tokens.json');
  const { name, file } = goldens.package;
  // The package's `exports` need not name the file.
  let source = dirname(createRequire(import.meta.url).resolve(name));
  while (!fs.existsSync(join(source, file))) {
    if (dirname(source) === source) throw new Error(`${name} holds no ${file}`);
    source = dirname(source);
  }
  const definition = JSON.parse(fs.readFileSync(join(source, file), 'utf8')) as { added_tokens: { id: number }[] };
  definition.added_tokens = definition.added_tokens.filter(({ id }) => id < goldens.drop_added_from);
  fs.writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(definition));
  fs.writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|im_end|>' }));
  fs.writeFileSync(join(folder, 'chat_template.jinja'), template ?? goldens.chat_template);
}
