/** All tasks by name. */
import { UserError } from '../errors.ts';
import { dominoes } from './dominoes/dominoes.ts';
import { m3cot } from './m3cot/m3cot.ts';
import { relay, relay6, relayAdd } from './relay/relay.ts';
import { scienceqa } from './scienceqa/scienceqa.ts';
import type { Task } from './task.ts';

const TASKS: readonly Task[] = [m3cot, scienceqa, dominoes, relay, relay6, relayAdd];

export const taskNames: readonly string[] = TASKS.map((task) => task.name);

/** @throws UserError listing the known names when there is no such task. */
export function findTask(name: string): Task {
  const task = TASKS.find((candidate) => candidate.name === name);
  if (!task) throw new UserError(`there is no task ${name}; known tasks are ${taskNames.join(', ')}`);
  return task;
}
