/** Tasks by name, or from a file of the user's own. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { schemaMistakes, UserError } from '../errors.ts';
import { m3cot } from './m3cot/m3cot.ts';
import { findTask, taskNames } from './registry.ts';
import { scoreLetters } from './scorers.ts';
import type { Task } from './task.ts';

const columnsSchema = z.array(z.string().min(1));
const functionSchema = z.custom<(...args: never[]) => unknown>(
  (value) => typeof value === 'function',
  'should be a function',
);

/** What a file has to export, and what it may. */
const taskSchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9_-]+$/, 'should be of letters, digits, - and _'),
  columns: columnsSchema.refine((columns) => columns.includes('image'), 'should hold image'),
  rowToSample: functionSchema,
  trainingColumns: columnsSchema.default([]),
  optionalColumns: columnsSchema.default([]),
  score: functionSchema.optional(),
  groups: functionSchema.optional(),
  officialPredictions: functionSchema.optional(),
});

const sampleSchema = z.object({
  id: z.string(),
  images: z.array(z.object({ kind: z.enum(['encoded', 'rgb']) })),
  question: z.string().min(1),
  choices: z.array(z.string()).max(26),
  rationale: z.string(),
  answer: z.string(),
  meta: z.record(z.string(), z.string()),
});

/** Whether a task is given by a file: a path that ends in .mjs or .js. */
export function isTaskFile(name: string): boolean {
  return /\.m?js$/.test(name);
}

/**
 * A task by its name, or the default export of a JavaScript module (see `Task`; a missing `score`, `groups` or `officialPredictions` is that of
 * letter answers without groups). Runs the file's code.
 * @throws UserError when there is no such task, or the file holds none
 */
export async function loadTask(name: string): Promise<Task> {
  if (!isTaskFile(name)) return findTask(name);
  const path = resolve(name);
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
    throw new UserError(`there is no task file ${name}; known tasks are ${taskNames.join(', ')}`);
  }
  let exported: unknown;
  try {
    exported = ((await import(pathToFileURL(path).href)) as { default?: unknown }).default;
  } catch (error) {
    const { message } = error as Error;
    const remedy = message.includes("Cannot find package 'ivtlr'")
      ? '; a file that imports ivtlr must lie in a folder where it is installed, or below one'
      : '';
    throw new UserError(`the task file ${name} cannot be loaded: ${message}${remedy}`);
  }
  const result = taskSchema.safeParse(exported);
  if (!result.success) {
    throw new UserError(`the task file ${name} should export a task as default:\n${schemaMistakes(result.error)}`);
  }
  const task = exported as Pick<Task, 'name' | 'columns' | 'rowToSample'> & Partial<Task>;
  const { trainingColumns, optionalColumns } = result.data;
  return {
    score: scoreLetters,
    groups: () => ({}),
    officialPredictions: m3cot.officialPredictions,
    ...task,
    trainingColumns,
    optionalColumns,
    rowToSample(row, place, index) {
      // The file's own errors are about the row; they have no class of ours.
      try {
        const sample = task.rowToSample(row, place, index);
        if (sample === null) return null;
        const checked = sampleSchema.safeParse(sample);
        if (checked.success) return sample;
        throw new Error(`rowToSample gave no sample: ${schemaMistakes(checked.error)}`);
      } catch (error) {
        if (error instanceof UserError) throw error;
        throw new UserError(`${place}: ${name}: ${(error as Error).message}`);
      }
    },
  };
}
