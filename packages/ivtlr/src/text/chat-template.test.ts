import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { loadChatTemplate, parseChatTemplate, renderChat } from './chat-template.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-chat-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const template =
  "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}[system: be kind]{% endif %}" +
  "[{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}{% else %}" +
  "{% for part in message['content'] %}{% if part['type'] == 'image' %}<img>{% else %}{{ part['text'] }}{% endif %}{% endfor %}" +
  '{% endif %}]{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant: {% endif %}';

test('content lists, plain content, generation prompt and variables', () => {
  const parsed = parseChatTemplate(template, 'test', { eos_token: '</s>' });
  const content = [{ type: 'image' as const }, { type: 'text' as const, text: 'what?' }];
  expect(renderChat(parsed, [{ role: 'user', content }], { addGenerationPrompt: true })).toBe(
    '[system: be kind][user: <img>what?]</s>[assistant: ',
  );
  expect(renderChat(parsed, [{ role: 'system', content: 'x' }])).toBe('[system: x]</s>');
});

test('the three places a template may come from, in their order', () => {
  const own = mkdtempSync(join(folder, 'places-'));
  const rendered = () => renderChat(loadChatTemplate(own), [{ role: 'user', content: 'q' }]);
  expect(() => loadChatTemplate(own)).toThrow(/no chat template in/);
  writeFileSync(
    join(own, 'tokenizer_config.json'),
    JSON.stringify({ bos_token: '<s>', chat_template: '{{ bos_token }}1{{ messages[0].content }}' }),
  );
  expect(rendered()).toBe('<s>1q');
  writeFileSync(join(own, 'chat_template.json'), JSON.stringify({ chat_template: '2{{ messages[0].content }}' }));
  expect(rendered()).toBe('2q');
  writeFileSync(join(own, 'chat_template.jinja'), '{{ bos_token }}3');
  expect(rendered()).toBe('<s>3');
});

test('of named templates the default is taken', () => {
  const own = mkdtempSync(join(folder, 'named-'));
  const named = [
    { name: 'tool', template: 'T' },
    { name: 'default', template: 'D' },
  ];
  writeFileSync(join(own, 'tokenizer_config.json'), JSON.stringify({ chat_template: named }));
  expect(renderChat(loadChatTemplate(own), [])).toBe('D');
});

test.each([
  ['{% for i in range(1000000000) %}x{% endfor %}', 'it loops over a range of 1000000000'],
  ['{% for i in range(0, -1000000000, -1) %}x{% endfor %}', 'it loops over a range of 1000000000'],
  ['{% for i in range(1, 5, 0) %}x{% endfor %}', 'range() wants whole numbers, and a step other than 0'],
  ['{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}', 'it takes more than 100000 steps'],
  [
    '{% set x = "ab" %}{% for i in range(60) %}{% set x = x ~ x %}{% endfor %}{% set ns = namespace(x="ab") %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}',
    'characters',
  ],
  [
    '{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
    'it takes more than 100000 steps',
  ],
  ['{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}', 'call stack'],
  ['{{ messages | nothing }}', 'nothing'],
])('a template without end is stopped, in a sentence that names it: %s', (text, reason) => {
  const render = () => renderChat(parseChatTemplate(text, 'a/chat_template.jinja'), [{ role: 'user', content: 'q' }]);
  expect(render).toThrow(UserError);
  expect(render).toThrow('chat template in a/chat_template.jinja failed: ');
  expect(render).toThrow(reason);
});

test('what templates may count on is there', () => {
  const render = (text: string) => renderChat(parseChatTemplate(text), [{ role: 'user', content: 'q' }]);
  expect(render('{{ range(3) | join(",") }} {{ range(5, 0, -2) | list | join(",") }}')).toBe('0,1,2 5,3,1');
  expect(render('{{ true }}{{ none is none }}{{ False or True }}')).toBe(render('{{ True }}{{ true }}{{ true }}'));
  expect(render('{{ strftime_now("%Y-%m-%d %H:%M %b %B %%") }}')).toMatch(
    /^\d{4}-\d\d-\d\d \d\d:\d\d [A-Z][a-z]{2} [A-Z][a-z]+ %$/,
  );
  expect(() => parseChatTemplate('x'.repeat(300_000), 'a/b')).toThrow(
    'chat template in a/b has more than 262144 characters',
  );
});

test('bad templates are UserErrors that name their source', () => {
  expect(() => parseChatTemplate('{% for x in %}', 'a/b')).toThrow(/chat template in a\/b is not valid Jinja/);
  for (const cut of ['{{', '{{ a.', '{% set x =', '{% if x %}'])
    expect(() => parseChatTemplate(cut, 'a/b')).toThrow(/is not valid Jinja: it is cut short or nested wrongly$/);
  const raising = parseChatTemplate("{{ raise_exception('no system role') }}", 'c');
  expect(() => renderChat(raising, [])).toThrow(/chat template in c failed: .*no system role/);
});

test('a long conversation is said to be too long, and not that the template has failed', () => {
  const template = parseChatTemplate('{{ messages[0].content }}{{ messages[0].content }}', 'a/b');
  expect(() => renderChat(template, [{ role: 'user', content: 'x'.repeat(600_000) }])).toThrow(
    /^the conversation is too long: its prompt has more than 1048576 characters$/,
  );
});
