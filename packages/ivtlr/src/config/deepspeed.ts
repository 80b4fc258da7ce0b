/** A DeepSpeed configuration file (`ds_config.json`) as settings of a recipe. */
import { type Document, isMap, isNode, LineCounter, parseDocument } from 'yaml';
import { UserError } from '../errors.ts';
import { DEEPSPEED_KEYS, type Fail, type Rule } from './deepspeed-keys.ts';
import { closestName } from './introspect.ts';
import type { OfficialSettings } from './official-keys.ts';

export interface DeepSpeedSetting {
  /** As errors show it: file, line, column and the key with its sections. */
  name: string;
  /** Of the setting in a recipe, or the one official name that stands for none. */
  path: readonly string[];
  value: unknown;
}

export interface DeepSpeedConfig {
  /** As it was opened. */
  source: string;
  settings: readonly DeepSpeedSetting[];
  /** Types that gradients are to have. */
  gradientTypes: readonly { name: string; value: unknown }[];
  /** Keys that were accepted and change nothing. */
  withoutEffect: readonly string[];
}

/**
 * Reads the text of such a file: JSON, with `#` comments as DeepSpeed allows them. A value "auto", which the Hugging Face Trainer would fill in, is
 * taken as absent, and so is null.
 * @throws UserError naming the first key that cannot be honoured, with the reason
 */
export function parseDeepSpeedConfig(text: string, source: string): DeepSpeedConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${source}:${line}:${col}`;
  };
  const [broken] = document.errors;
  if (broken) throw new UserError(`${place(broken.pos[0])}: ${broken.message}`);
  if (!isMap(document.contents)) throw new UserError(`${place(0)}: a DeepSpeed config is a JSON object of settings`);
  const settings: DeepSpeedSetting[] = [];
  const gradientTypes: { name: string; value: unknown }[] = [];
  const withoutEffect: string[] = [];

  const nameOf = (path: readonly string[]) => {
    const node = document.getIn(path, true);
    return `${place(isNode(node) && node.range ? node.range[0] : 0)}: ${path.join('.')}`;
  };
  const visit = (value: unknown, rule: Rule, path: readonly string[]): void => {
    if (value === null || value === 'auto') return;
    const name = nameOf(path);
    const fail: Fail = (message) => {
      throw new UserError(`${name}: ${message}`);
    };
    switch (rule.kind) {
      case 'section':
        if (!isRecord(value)) fail(`expected an object with keys such as ${Object.keys(rule.keys)[0]}`);
        for (const [key, inner] of Object.entries(value as Record<string, unknown>)) {
          const inside = [...path, key];
          if (!Object.hasOwn(rule.keys, key)) throw new UserError(`${nameOf(inside)}: ${unknownKey(key, rule.keys)}`);
          visit(inner, rule.keys[key]!, inside);
        }
        break;
      case 'setting':
        settings.push({ name, path: rule.path, value: rule.read ? rule.read(value, fail) : value });
        break;
      case 'gradient type':
        gradientTypes.push({ name, value });
        break;
      case 'no effect':
        withoutEffect.push(path.join('.'));
        break;
      case 'off': {
        // Sections say whether they are off by one of two keys; the others then mean nothing.
        const inside = isRecord(value) ? value : {};
        const said = ['enabled', 'device'].find((key) => Object.hasOwn(inside, key));
        const isEmpty = isRecord(value) && Object.keys(value).length === 0;
        const accepted = isEmpty || ([false, 0, 'none', ...rule.also] as unknown[]).includes(value);
        if (said) visit(inside[said], rule, [...path, said]);
        else if (!accepted) fail(`${told(value)} cannot be honoured: ${rule.reason}`);
      }
    }
  };
  visit(
    orExplain(source, () => document.toJS()),
    { kind: 'section', keys: DEEPSPEED_KEYS },
    [],
  );
  return { source, settings, gradientTypes, withoutEffect };
}

/** A value that the recipe's text and the file both give, and not alike. */
export interface Disagreement {
  path: readonly string[];
  raise(): never;
}

/**
 * Writes the settings into a recipe's document.
 * @param placeOf file, line and column of a setting in the recipe
 * @returns which of them came from the file, and which stand in the recipe with another value and were left alone
 */
export function applyDeepSpeed(
  config: DeepSpeedConfig,
  document: Document,
  official: OfficialSettings,
  placeOf: (path: readonly string[]) => string,
): { taken: DeepSpeedSetting[]; disagreements: Disagreement[] } {
  const taken: DeepSpeedSetting[] = [];
  const disagreements: Disagreement[] = [];
  for (const setting of config.settings) {
    const { name, path, value } = setting;
    const fail: Fail = (message) => {
      throw new UserError(`${name}: ${message}`);
    };
    const isAccumulation = path[0] === 'gradient_accumulation_steps';
    const there = isAccumulation ? official.accumulation(value, fail) : valueAt(document.toJS(), path);
    const key = path.join('.');
    if (there === undefined) {
      if (!isAccumulation) writeSetting(document, path, value, fail);
      taken.push(setting);
    } else if (JSON.stringify(there) !== JSON.stringify(value)) {
      const message = `${told(there)}, but ${name} is ${told(value)}; write the same in both, leave one out, or choose with --set ${key}=VALUE`;
      const raise = (): never => {
        throw new UserError(`${placeOf(path)}: ${key}: ${message}`);
      };
      disagreements.push({ path, raise });
    }
  }
  return { taken, disagreements };
}

function writeSetting(document: Document, path: readonly string[], value: unknown, fail: Fail): void {
  try {
    document.setIn(path, document.createNode(value));
  } catch {
    fail(`is ${path.join('.')} here, but ${path[0]} holds a plain value in the recipe`);
  }
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((inside, key) => (isRecord(inside) ? inside[key] : undefined), value);
}

const TYPES: Readonly<Record<string, string>> = {
  ...{ fp32: 'float32', float32: 'float32', fp16: 'float16', float16: 'float16', half: 'float16' },
  ...{ bf16: 'bfloat16', bfloat16: 'bfloat16' },
};

/** @throws UserError where gradients should have another type than `trained`, the type of the weights that are trained */
export function requireGradientTypes({ gradientTypes }: DeepSpeedConfig, trained: string): void {
  const other = gradientTypes.find(({ value }) => TYPES[String(value)] !== trained);
  if (!other) return;
  throw new UserError(
    `${other.name}: ${told(other.value)} cannot be honoured: gradients have the type of the weights that are trained, ${trained} here; remove it`,
  );
}

function told(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function unknownKey(key: string, known: Readonly<Record<string, Rule>>): string {
  const close = closestName(key, Object.keys(known));
  return `unknown key "${key}"; ${close ? `did you mean "${close}"?` : 'nothing here does what it may ask for, so remove it'}`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function orExplain<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new UserError(`${source}: ${(error as Error).message}`);
  }
}
