import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
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

test('bad templates are UserErrors that name their source', () => {
  expect(() => parseChatTemplate('{% for x in %}', 'a/b')).toThrow(/chat template in a\/b is not valid Jinja/);
  const raising = parseChatTemplate("{{ raise_exception('no system role') }}", 'c');
  expect(() => renderChat(raising, [])).toThrow(/chat template in c failed: .*no system role/);
});
