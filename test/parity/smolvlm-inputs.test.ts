/** Images and prompts against transformers' SmolVLM and Idefics3 processors over Pillow; see README.md for the goldens. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { inflateSync } from 'node:zlib';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tokenizeConversation } from '../../packages/ivtlr/src/data/conversation.ts';
import { renderInference, tokenizeSample } from '../../packages/ivtlr/src/data/render.ts';
import { folderRendering } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { smolVlm } from '../../packages/ivtlr/src/models/smolvlm/family.ts';
import { SmolVlmInputs } from '../../packages/ivtlr/src/models/smolvlm/inputs.ts';
import type { ChatMessage } from '../../packages/ivtlr/src/text/chat-template.ts';
import { LATENT_TOKENS, Tokenizer } from '../../packages/ivtlr/src/text/tokenizer.ts';
import type { RawImage, RgbImage } from '../../packages/ivtlr/src/vision/image.ts';
import { readGolden } from './model.ts';

interface Case {
  file: string | null;
  config: string;
  mode: string;
  width: number;
  height: number;
  shape: [tiles: number, channels: number, height: number, width: number];
  /** Rows and columns, 0 where the picture is not cut. */
  tiles: [rows: number, columns: number];
  sha256: string;
  strided: string;
  values: number[];
}

interface PromptCase {
  /** Whether the tokenizer knows the names of rows and columns. */
  markers: boolean;
  /** Rows and columns of each picture. */
  grids: [rows: number, columns: number][];
  question: string;
  choices: string[];
  text: string;
  input_ids: number[];
}

type ConversationCase = Pick<PromptCase, 'markers' | 'grids' | 'input_ids'> & { messages: ChatMessage[] };

const goldens = readGolden<{ stride: number; configs: Record<string, object>; cases: Case[] }>('smolvlm-inputs.json');
const prompts = readGolden<{
  run: number;
  without: string[];
  cases: PromptCase[];
  conversations: ConversationCase[];
}>('smolvlm-prompts.json');

/** Lossy formats may be decoded by another release of their library, which may round differently. */
const LOSSY = /\.jpg$|lossy\.webp$|\.avif$/;

let live = 0;
let folder = '';
beforeAll(() => {
  live = liveTensorCount();
  folder = fs.mkdtempSync(path.join(tmpdir(), 'ivtlr-smolvlm-'));
});
afterAll(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(live);
});

/** The formula of chameleon_pictures.py. */
function drawn(width: number, height: number): RawImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      data[to++] = x * 7 + y * 3 + ((x * y) >> 9);
      data[to++] = Math.floor((x * x) / 4001) + y;
      data[to++] = ((x >> 5) * 31) ^ ((y >> 4) * 17);
    }
  }
  return { kind: 'rgb', width, height, data };
}

function open({ file, width, height }: Case): RawImage {
  if (file === null) return drawn(width, height);
  return { kind: 'encoded', bytes: fs.readFileSync(new URL(`./goldens/${file}`, import.meta.url)), name: file };
}

/** Levels (tiles, 3, H, W) of a picture cut into tiles, and of the whole. */
function levelsOf(image: RgbImage, whole: RgbImage | undefined, tile: number): Uint8Array {
  const parts: Uint8Array[] = [];
  const cut = ({ width, data }: RgbImage, left: number, top: number) => {
    const levels = new Uint8Array(3 * tile * tile);
    for (let c = 0, to = 0; c < 3; c++)
      for (let y = top; y < top + tile; y++)
        for (let x = left; x < left + tile; x++) levels[to++] = data[(y * width + x) * 3 + c]!;
    parts.push(levels);
  };
  for (let top = 0; top < image.height; top += tile)
    for (let left = 0; left < image.width; left += tile) cut(image, left, top);
  if (whole) cut(whole, 0, 0);
  return Buffer.concat(parts);
}

it.each(goldens.cases)('$file $width x $height ($mode), $config', async (golden) => {
  // The model's patches only say how many tokens a tile becomes.
  const inputs = new SmolVlmInputs(goldens.configs[golden.config], { patchSize: 2, shuffle: 1 });
  const prepared = await inputs.prepare(open(golden));
  const { image, whole, source } = prepared;
  expect(source).toEqual({ width: golden.width, height: golden.height });
  const [count, , tile] = golden.shape;
  const [rows, columns] = golden.tiles;
  expect([image.height, image.width]).toEqual([Math.max(1, rows) * tile, Math.max(1, columns) * tile]);
  expect(whole !== undefined).toBe(rows > 0);
  const levels = levelsOf(image, whole, tile);
  const lossy = LOSSY.test(golden.file ?? '');
  const wanted = new Uint8Array(inflateSync(Buffer.from(golden.strided, 'base64')));
  const strided = levels.filter((_, index) => index % goldens.stride === 0);
  expect(strided.length).toBe(wanted.length);
  const difference = wanted.reduce((most, value, i) => Math.max(most, Math.abs(value - strided[i]!)), 0);
  expect(difference).toBeLessThanOrEqual(lossy ? 1 : 0);
  if (!lossy) expect(createHash('sha256').update(levels).digest('hex')).toBe(golden.sha256);

  const processed = inputs.finish(prepared);
  const { pixels, tokens } = processed;
  expect(pixels.shape).toEqual(golden.shape);
  expect(tokens).toBe(count * (tile / 2) ** 2);
  expect(inputs.layout(prepared)).toMatchObject({ tokens, written: processed.written });
  const values = pixels.data();
  golden.values.forEach((value, index) => {
    const off = Math.abs((values[index * 8 * goldens.stride] as number) - value);
    expect(off).toBeLessThan(lossy ? 0.04 : 1e-6);
  });
  pixels.dispose();
});

it('has every kind of picture', () => {
  const modes = new Set(goldens.cases.map(({ mode }) => mode));
  for (const mode of ['RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', '1', 'I;16']) expect(modes).toContain(mode);
  const grids = new Set(goldens.cases.map(({ tiles }) => tiles.join('x')));
  for (const grid of ['0x0', '4x4', '1x4', '4x1', '3x4']) expect(grids).toContain(grid);
});

describe.each([
  ['with', true],
  ['without', false],
] as const)('prompts, %s tokens of their own for rows and columns', (_, markers) => {
  const image = { kind: 'rgb' as const, width: 1, height: 1, data: new Uint8Array(3) };
  const inputs = new SmolVlmInputs({ max_image_size: { longest_edge: prompts.run } }, { patchSize: 1, shuffle: 1 });
  /** What is shown of pictures that are cut so: three tokens a tile here, to keep the golden small. */
  const shown = (grids: PromptCase['grids']) =>
    grids.map(([rows, columns]) => {
      const size = (n: number) => Math.max(1, n) * prompts.run;
      const tiles = { width: size(columns), height: size(rows), data: new Uint8Array() };
      const { written } = inputs.layout({ image: tiles, whole: rows > 0 ? tiles : undefined });
      return { written, tokens: (rows * columns + 1) * prompts.run };
    });
  let source = fileURLToPath(new URL('goldens/smolvlm-tokenizer', import.meta.url));
  let tokenizer: Tokenizer;

  beforeAll(() => {
    if (!markers) {
      const plain = path.join(folder, 'plain');
      fs.cpSync(source, plain, { recursive: true });
      const file = path.join(plain, 'tokenizer.json');
      const definition = JSON.parse(fs.readFileSync(file, 'utf8')) as {
        added_tokens: { id: number; content: string }[];
      };
      const kept = definition.added_tokens.filter(({ content }) => !prompts.without.includes(content));
      definition.added_tokens = kept.map((token, i) => ({ ...token, id: kept[0]!.id + i }));
      fs.writeFileSync(file, JSON.stringify(definition));
      source = plain;
    }
    tokenizer = Tokenizer.fromFolder(source);
    tokenizer.addSpecialTokens(LATENT_TOKENS);
  });

  it('questions about one picture, several and none', async () => {
    const render = folderRendering(source, smolVlm, tokenizer, 'consistent')('m3cot');
    const own = prompts.cases.filter((entry) => entry.markers === markers);
    expect(own.length).toBe(44);
    for (const { grids, question, choices, input_ids } of own) {
      const images = grids.map(() => image);
      const sample = { id: 'a', images, question, choices, rationale: '', answer: '', meta: {} };
      const { ids } = renderInference(await tokenizeSample(sample, shown(grids), 'infer', render), 2);
      expect(ids).toEqual(input_ids);
    }
  });

  it('conversations', async () => {
    const render = folderRendering(source, smolVlm, tokenizer, 'plain')('m3cot');
    const own = prompts.conversations.filter((entry) => entry.markers === markers);
    expect(own.length).toBe(4);
    for (const { grids, messages, input_ids } of own) {
      const { promptIds, afterLatentIds } = await tokenizeConversation(messages, shown(grids), render);
      expect([...promptIds, ...afterLatentIds]).toEqual(input_ids);
    }
  });
});
