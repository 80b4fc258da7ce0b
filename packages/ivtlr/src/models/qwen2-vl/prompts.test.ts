import { expect, test } from 'vitest';
import { qwen2VlPrompts } from './prompts.ts';

const question = 'Which is {red}?';
const choices = ['a', 'b c'];

test('official, M3CoT', () => {
  const profile = qwen2VlPrompts('official', 'm3cot');
  expect(profile.train.text(question, choices)).toBe(
    '[Question]:{Which is {red}?}\n[Options]:\n(A).{a}\n(B).{b c}\nAnswer:\n',
  );
  expect(profile.infer.text(question, choices)).toBe(
    '[Question]:{Which is {red}?}\n[Options]:\nA.{a}\nB.{b c}\nAnswer:',
  );
});

test('official, ScienceQA', () => {
  const profile = qwen2VlPrompts('official', 'scienceqa');
  expect(profile.train.text('q', ['a'])).toBe('[Question]:{q}\n[Options]:\n(A).{a}\nAnswer:\n');
  expect(profile.infer.text('q', ['a'])).toBe('[Question]:{q}\n[Options]:\n(A).{a}\nAnswer:');
  expect(profile.infer.text('q', [])).toBe('[Question]:{q}\nAnswer:');
});

test('consistent: both phases by the same function', () => {
  const profile = qwen2VlPrompts('consistent');
  expect(profile.train).toBe(profile.infer);
  expect(profile.train.text('q', ['a', 'b'])).toBe('[Question]:{q}\n[Options]:\n(A).{a}\n(B).{b}\nAnswer:\n');
  expect(profile.train.text('q', [])).toBe('[Question]:{q}\nAnswer:\n');
});
