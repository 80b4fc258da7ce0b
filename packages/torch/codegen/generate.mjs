// Writes src/ops.gen.ts from the schemas in schemas/. With --dump the schemas are first read from the linked libtorch (after a
// build); with --check nothing is written and a difference is an error.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const schemaFile = path.join(root, 'schemas', 'libtorch-2.13.0.txt');
const target = path.join(root, 'src', 'ops.gen.ts');
const RESERVED = new Set(
  `break case catch class const continue debugger default delete do else enum export extends false finally for function if import in
   instanceof new null return super switch this throw true try typeof var void while with yield let static await implements interface
   package private protected public arguments eval Tensor DType Device Scalar Generator native wrap wrapList resolve NAMES`.split(
    /\s+/,
  ),
);
const safe = (name) => (RESERVED.has(name) ? `${name}$` : name);

function splitTop(text) {
  const parts = [];
  let depth = 0;
  let part = '';
  let quote = '';
  for (const char of text) {
    if (quote) quote = char === quote ? '' : quote;
    else if (char === '"' || char === "'") quote = char;
    else if ('([{'.includes(char)) depth++;
    else if (')]}'.includes(char)) depth--;
    if (char === ',' && depth === 0 && !quote) {
      parts.push(part.trim());
      part = '';
    } else part += char;
  }
  if (part.trim()) parts.push(part.trim());
  return parts;
}

/** `Tensor(a!)[]? name=default` -> its TypeScript type, alias and default. */
function parseArgument(text) {
  const annotation = /\(([a-z]\w*)?(!)?(?: -> [^()]*)?\)/;
  const found = text.match(annotation);
  const matched = text
    .replace(annotation, '')
    .match(/^((?:\([^()]*\)|[A-Za-z_][\w.]*(?:\([^()]*\))?)(?:\[\d*\]|\?)*)(?:\s+([A-Za-z_]\w*)(?:=(.*))?)?$/s);
  if (!matched) throw new Error(`cannot parse the argument "${text}"`);
  const [, type, name, fallback] = matched;
  return {
    type: typeOf(type),
    alias: found?.[2] && found[1],
    name,
    optional: fallback !== undefined || type.endsWith('?'),
  };
}

const SCALARS = {
  Tensor: 'Tensor',
  Scalar: 'Scalar',
  int: 'number',
  SymInt: 'number',
  float: 'number',
  bool: 'boolean',
  str: 'string',
  ScalarType: 'DType',
  Layout: 'string',
  MemoryFormat: 'string',
  Device: 'Device',
  Generator: 'Generator',
  number: 'Scalar',
  NoneType: 'null',
};

function typeOf(text) {
  if (text.endsWith('?')) return `${typeOf(text.slice(0, -1))} | null`;
  const list = text.match(/^(.*)\[(\d*)\]$/s);
  if (list) {
    const item = typeOf(list[1]);
    const array = /[| ]/.test(item) ? `readonly (${item})[]` : `readonly ${item}[]`;
    return list[2] && item === 'number' ? `${array} | number` : array;
  }
  return SCALARS[text.replace(/\(.*\)$/s, '')] ?? 'unknown';
}

function parse(schema) {
  const open = schema.indexOf('(');
  const arrow = schema.lastIndexOf(') -> ');
  const name = schema.slice(0, open);
  const args = splitTop(schema.slice(open + 1, arrow))
    .filter((part) => part !== '*')
    .map(parseArgument);
  const text = schema.slice(arrow + 5).trim();
  const tuple = text.startsWith('(') && text.endsWith(')');
  // One schema of libtorch gives two arguments the same name.
  args.forEach((arg, i) => {
    if (args.findIndex((other) => other.name === arg.name) < i) arg.name += i;
  });
  const returns = (tuple ? splitTop(text.slice(1, -1)) : [text]).map(parseArgument);
  return { schema, name, args, returns };
}

function functionName(name) {
  const [namespace, rest] = name.split('::');
  const flat = rest.replace('.', '_');
  return safe(namespace === 'aten' ? flat : `${namespace}__${flat}`);
}

function convert(result, value, args) {
  const source =
    result.alias && result.type === 'Tensor'
      ? args.find((arg) => arg.alias === result.alias && arg.type === 'Tensor')
      : undefined;
  if (source) return safe(source.name);
  if (result.type === 'Tensor') return `wrap(${value} as number)`;
  if (result.type === 'readonly Tensor[]') return `wrapList(${value}) as Tensor[]`;
  return `${value} as ${result.type.replace(/^readonly /, '')}`;
}

function emit(op, k, used) {
  let name = functionName(op.name);
  while (used.has(name)) name += '_';
  used.add(name);
  let open = true;
  const parameters = [...op.args]
    .reverse()
    .map((arg) => {
      open &&= arg.optional;
      const argName = safe(arg.name);
      if (open) return `${argName}?: ${arg.type}`;
      return `${argName}: ${arg.type}${arg.optional ? ' | undefined' : ''}`;
    })
    .reverse();
  const call = `native.callOp(resolve(${k}, arguments.length, ${op.args.length})${op.args.map((arg) => `, ${safe(arg.name)}`).join('')})`;
  const strip = (type) => (type === 'readonly Tensor[]' ? 'Tensor[]' : type.replace(/^readonly /, ''));
  let body;
  let type;
  if (op.returns.length === 0) [type, body] = ['void', `${call};`];
  else if (op.returns.length === 1) {
    const [result] = op.returns;
    type = strip(result.type);
    const converted = convert(result, call, op.args);
    body =
      converted.startsWith('wrap') || converted.includes('native.')
        ? `return ${converted};`
        : `${call};\n  return ${converted};`;
  } else {
    type = `[${op.returns.map((result) => strip(result.type)).join(', ')}]`;
    body = `const r = ${call} as unknown[];\n  return [${op.returns.map((result, i) => convert(result, `r[${i}]`, op.args)).join(', ')}];`;
  }
  return `/** \`${op.schema.replace(/\*\//g, '* /')}\` */\nexport function ${name}(${parameters.join(', ')}): ${type} {\n  ${body}\n}`;
}

export function generate(schemas) {
  const used = new Set();
  // Two kinds have no fixed parameter list: varargs, and more arguments than the addon takes.
  const ops = schemas
    .filter((schema) => !schema.includes('...'))
    .map(parse)
    .filter((op) => op.args.length <= 64);
  return `// Generated by codegen/generate.mjs from ${path.relative(root, schemaFile)}: ${ops.length} operators. Never edited by hand.
import type { Device, DType } from './core/dtype.ts';
import { makeResolver, native, wrap, wrapList } from './core/op.ts';
import type { Generator } from './core/random.ts';
import type { Tensor } from './core/tensor.ts';

type Scalar = number | bigint | boolean;

const NAMES: readonly string[] = \`
${ops.map((op) => op.name).join('\n')}
\`.trim().split('\\n');
const resolve = makeResolver(NAMES);

${ops.map((op, k) => emit(op, k, used)).join('\n\n')}
`;
}

if (process.argv.includes('--dump')) {
  const { operatorSchemas } = await import(path.join(root, 'dist', 'core', 'op.js'));
  fs.writeFileSync(schemaFile, `${operatorSchemas().join('\n')}\n`);
}
const text = generate(fs.readFileSync(schemaFile, 'utf8').trim().split('\n'));
if (process.argv.includes('--check')) {
  if (fs.readFileSync(target, 'utf8') !== text) {
    console.error('src/ops.gen.ts is not what codegen/generate.mjs makes from schemas/: run `npm run codegen`');
    process.exit(1);
  }
} else fs.writeFileSync(target, text);
