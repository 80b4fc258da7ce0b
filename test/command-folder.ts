/** What the tests of a family's commands ask about and train on: a folder with a model, questions with pictures, one more picture, and a recipe. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';

export interface CommandFolder {
  model: string;
  data: string;
  /** A picture of 140x84 pixels. */
  image: string;
}

/**
 * Twelve questions a split, about pictures of 60x100 to 170x67 pixels, with rationales of three steps.
 * @param writeModel writes the model's folder
 * @param recipe with MODEL, DATA and OUT for the folders; it becomes `recipe.yaml`
 */
export async function writeCommandFolder(
  folder: string,
  writeModel: (model: string) => void,
  recipe: string,
): Promise<CommandFolder> {
  const [model, data, image] = ['model', 'data', 'image.png'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeModel(model);
  mkdirSync(data);
  const drawn = (width: number, height: number, salt: number) =>
    sharp(
      new Uint8Array(width * height * 3).map((_, index) => (index * (7 + salt) + (index >> 8)) % 256),
      { raw: { width, height, channels: 3 } },
    ).png();
  await drawn(140, 84, 0).toFile(image);
  const lines: string[] = [];
  for (let i = 0; i < 12; i++) {
    await drawn(60 + 10 * i, 100 - 3 * i, i).toFile(join(data, `${i}.png`));
    const rationale = 'The disk is red. The box is blue. So the first figure is it';
    const row = { id: `row-${i}`, question: ' Which? ', choices: ['disk', 'box'], answer: 'AB'[i % 2], rationale };
    lines.push(JSON.stringify({ ...row, image: `${i}.png`, domain: 'science', topic: `topic ${i % 3}` }));
  }
  for (const split of ['train', 'validation', 'test']) writeFileSync(join(data, `${split}.jsonl`), lines.join('\n'));
  const text = recipe.replace('MODEL', model).replace('DATA', data).replace('OUT', join(folder, 'unused'));
  writeFileSync(join(folder, 'recipe.yaml'), text);
  return { model, data, image };
}
